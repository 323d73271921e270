"""A caffemodel: its layers and blobs as spans of the file, in protobuf or HDF5."""
