"""How are the chosen layers tuned? One tuner per file."""
