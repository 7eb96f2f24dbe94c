"""Which layers train at which step? One schedule a file."""
