"""Model and data -> scores."""
