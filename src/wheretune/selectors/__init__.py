"""Which layers are tuned? Scores -> layers."""
