"""What every package stands on: errors, checks, arrays, files, numerics and jobs."""
