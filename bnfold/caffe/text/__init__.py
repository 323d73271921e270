"""The text of a prototxt."""
