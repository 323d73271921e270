"""Proof that the folded net computes what the original does: both run, in a process of their own."""
