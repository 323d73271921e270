"""Proof that the folded net computes what the original does."""
