"""What a paper chose on the axes, its hyperparameters and the numbers it printed. One paper per file."""
