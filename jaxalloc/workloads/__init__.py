"""Workload files: TOML in, TOML out (`files`), and the built-in ones."""
