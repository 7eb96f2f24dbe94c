"""What a paper chose on the five axes, its hyperparameters and the numbers it printed: data, one paper a file."""
