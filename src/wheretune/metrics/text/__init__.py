"""Metrics of texts that a model has written, against references or by running them; none of them opens torch."""
