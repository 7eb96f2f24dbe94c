"""A plan in other tools' words. One tool per file."""
