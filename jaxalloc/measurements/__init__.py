"""Tables of measurements: runs of a model, and logs of arrivals."""
