"""The folded net beside the original: both run, in a process of their own, and their values are compared."""
