"""A prototxt: its text, the tree that points into it, its fields by type, and changes that leave the rest alone."""
