"""What a result says, for people and for programs."""
