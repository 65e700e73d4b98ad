"""Trainability over a grid of two parameters."""
