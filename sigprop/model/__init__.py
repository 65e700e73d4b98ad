"""The description of a transformer: spec, readers, weights, export."""
