"""The plain data that rooms hand each other: JSON in and out, without torch and without rich."""
