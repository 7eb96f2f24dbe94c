"""Running Python code that nobody has read, so that it can do no harm."""
