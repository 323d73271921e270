"""The weights in a caffemodel."""
