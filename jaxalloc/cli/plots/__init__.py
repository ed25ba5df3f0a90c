"""Pictures: one figure a function, Matplotlib without a display."""
