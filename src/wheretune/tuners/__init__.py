"""How are the chosen layers tuned? One way a file; `base.py` applies, checks and undoes."""
