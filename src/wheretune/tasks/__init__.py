"""What is to be learned? One task per file."""
