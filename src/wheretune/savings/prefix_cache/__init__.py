"""What lies below the lowest trained layer is computed once: where its states lie, how they are made and fed."""
