"""Small language models, trained by the hundred."""
