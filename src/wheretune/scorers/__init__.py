"""How much does a layer matter? One scorer per file."""
