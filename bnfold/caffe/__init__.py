"""The Caffe side: a prototxt and a caffemodel as one net, its lowering to a graph, the folded net, and its export."""
