"""One component, one file: maps from kernel state to kernel state."""
