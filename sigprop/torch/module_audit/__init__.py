"""What is measured on a real module, beside what was predicted."""
