"""How good are predictions? Each metric with its n and its direction."""
