"""What comes back from the output."""
