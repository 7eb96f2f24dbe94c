"""How many jobs are run: one after another here, or in several processes by an executor of another package."""
