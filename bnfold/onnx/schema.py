"""ONNX's schema: the field numbers of its messages, and the types of attributes, under the names of the .proto file.

Only what bnfold reads or writes is here. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""


class ModelProto:
    """The whole file."""

    IR_VERSION, PRODUCER_NAME, PRODUCER_VERSION, DOC_STRING, GRAPH, OPSET_IMPORT = 1, 2, 3, 6, 7, 8
    METADATA_PROPS, TRAINING_INFO, FUNCTIONS = 14, 20, 25


class OperatorSetIdProto:
    """A domain of operators and its version."""

    DOMAIN, VERSION = 1, 2


class StringStringEntryProto:
    """One entry of a map."""

    KEY, VALUE = 1, 2


class TrainingInfoProto:
    """How the model is trained."""

    INITIALIZATION, ALGORITHM, INITIALIZATION_BINDING, UPDATE_BINDING = 1, 2, 3, 4


class GraphProto:
    """The main graph, or the body of a control flow."""

    NODE, NAME, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 2, 5, 11, 12, 13
    QUANTIZATION_ANNOTATION, SPARSE_INITIALIZER = 14, 15


class TensorAnnotation:
    """Which tensors hold the quantisation of another."""

    TENSOR_NAME, QUANT_PARAMETER_TENSOR_NAMES = 1, 2


class FunctionProto:
    """A model-local function."""

    NAME, INPUT, OUTPUT, NODE, OPSET_IMPORT, DOMAIN, VALUE_INFO = 1, 4, 5, 7, 9, 10, 12


class NodeProto:
    """One operator."""

    INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7


class AttributeProto:
    """An attribute of a node."""

    NAME, F, I, S, T, G, FLOATS, INTS, STRINGS, TENSORS, GRAPHS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11  # noqa: E741  as it is called
    TP, TYPE_PROTOS, TYPE, REF_ATTR_NAME, SPARSE_TENSOR, SPARSE_TENSORS = 14, 15, 20, 21, 22, 23

    class AttributeType:
        FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS, TENSORS, GRAPHS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
        SPARSE_TENSOR, SPARSE_TENSORS, TYPE_PROTO, TYPE_PROTOS = 11, 12, 13, 14


_A = AttributeProto
FIELD_OF_TYPE = dict(enumerate((
    _A.F, _A.I, _A.S, _A.T, _A.G, _A.FLOATS, _A.INTS, _A.STRINGS, _A.TENSORS, _A.GRAPHS,
    _A.SPARSE_TENSOR, _A.SPARSE_TENSORS, _A.TP, _A.TYPE_PROTOS,
), start=_A.AttributeType.FLOAT))  # fmt: skip
"""Which field of an AttributeProto holds a value of each AttributeType, in the order of the types."""


class TensorProto:
    """A constant."""

    DIMS, DATA_TYPE, FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, NAME, RAW_DATA = 1, 2, 4, 5, 6, 7, 8, 9
    DOUBLE_DATA, UINT64_DATA, EXTERNAL_DATA, DATA_LOCATION = 10, 11, 13, 14

    class DataLocation:
        EXTERNAL = 1


class SparseTensorProto:
    """A constant of which only what is not 0 is stored."""

    VALUES, INDICES, DIMS = 1, 2, 3


class ValueInfoProto:
    """A value's name and type."""

    NAME, TYPE = 1, 2


class TypeProto:
    """A tensor's element type and shape."""

    TENSOR_TYPE = 1

    class Tensor:
        ELEM_TYPE, SHAPE = 1, 2


class TensorShapeProto:
    """A tensor's extents."""

    DIM = 1

    class Dimension:
        DIM_VALUE, DIM_PARAM = 1, 2
