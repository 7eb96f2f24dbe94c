"""How much does a layer matter? One metric a file; `base.py` has the protocol and `score`."""
