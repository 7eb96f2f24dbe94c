"""The only training code, on an unmodified way of `transformers.Trainer`."""
