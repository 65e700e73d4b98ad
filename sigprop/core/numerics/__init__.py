"""Series and rounding, without a word of transformers."""
