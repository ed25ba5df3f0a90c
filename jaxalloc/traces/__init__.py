"""Where requests come from: trace files, seeded generators, prediction intervals."""
