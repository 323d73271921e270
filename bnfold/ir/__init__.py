"""The graph that the documents lower to, its names, and its shapes."""
