"""Work in cells: kept on disk, spread over processes and clusters."""
