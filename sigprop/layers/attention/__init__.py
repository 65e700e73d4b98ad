"""Maps of attention, and the grids of positions they use."""
