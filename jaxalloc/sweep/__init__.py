"""Many configurations of one workload: which ones, solving them in chunks, keeping the answers."""
