"""Which layers train at which step? One schedule per file."""
