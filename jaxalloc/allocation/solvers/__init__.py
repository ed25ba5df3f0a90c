"""One step of each solver."""
