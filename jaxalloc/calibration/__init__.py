"""From measurements to a workload: curves, service times and arrivals, with their uncertainty."""
