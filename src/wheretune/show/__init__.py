"""How records look in a terminal and in figures."""
