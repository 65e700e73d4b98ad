"""Published rules of initialisation, judged."""
