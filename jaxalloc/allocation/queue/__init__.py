"""The queue beyond its mean: paths, tails and percentiles, and whether a trace is Poisson."""
