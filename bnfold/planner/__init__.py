"""The planner: which affine goes where."""
