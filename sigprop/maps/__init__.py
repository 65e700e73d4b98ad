"""One component, one file: maps from state to state."""
