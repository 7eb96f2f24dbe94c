"""What sits on top of the model? One head per file."""
