"""Everything below the lowest trained layer is computed once and cached."""
