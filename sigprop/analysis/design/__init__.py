"""Parameters for given targets."""
