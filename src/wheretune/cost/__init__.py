"""What a plan costs, as arithmetic on records: FLOPs, bytes, speed-up."""
