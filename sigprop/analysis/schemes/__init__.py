"""Published initialisation schemes, and what they lead to."""
