"""What was tuned: saved, opened again, merged, shared."""
