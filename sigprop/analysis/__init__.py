"""What follows from propagation: criticality, limits, verdicts."""
