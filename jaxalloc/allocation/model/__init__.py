"""The workload, the queue that serves it, and the objective J."""
