"""What a training need not compute."""
