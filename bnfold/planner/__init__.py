"""Which affine goes where, and why what stays does: the plan of one graph, made without touching the model."""
