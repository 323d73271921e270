"""Net descriptions of 2013 (V0) and 2014 (V1) as today's layers.

What Caffe itself does when it loads such a file (upgrade_proto.cpp), for what a layer is at inference.
"""

from __future__ import annotations

from google.protobuf.message import Message as Proto

from . import caffe_pb2 as pb
from .text.fields import harmless
from .text.tree import Entry, Kind, Message
from .text.typed import Unread, fill, set_or_report, unknown_field

_V1_ENUM = (  # today's name by the number in V1LayerParameter.LayerType
    "", "Accuracy", "BNLL", "Concat", "Convolution", "Data", "Dropout", "EuclideanLoss", "Flatten", "HDF5Data",
    "HDF5Output", "Im2col", "ImageData", "InfogainLoss", "InnerProduct", "LRN", "MultinomialLogisticLoss", "Pooling",
    "ReLU", "Sigmoid", "Softmax", "SoftmaxWithLoss", "Split", "TanH", "WindowData", "Eltwise", "Power",
    "SigmoidCrossEntropyLoss", "HingeLoss", "MemoryData", "ArgMax", "Threshold", "DummyData", "Slice", "MVN", "AbsVal",
    "Silence", "ContrastiveLoss", "Exp", "Deconvolution",
)  # fmt: skip
V1_TYPES = dict(enumerate(_V1_ENUM))
V1_NUMBERS = {name: number for number, name in V1_TYPES.items() if name}
_FORK_TYPES = {"BN": "BN", "UPSAMPLE": "Upsample", "PRELU": "PReLU"}  # SegNet and others added to the enum

_V0_TYPES = {
    "accuracy": "Accuracy", "bnll": "BNLL", "concat": "Concat", "conv": "Convolution", "data": "Data",
    "dropout": "Dropout", "euclidean_loss": "EuclideanLoss", "flatten": "Flatten", "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output", "im2col": "Im2col", "images": "ImageData", "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct", "lrn": "LRN", "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling", "relu": "ReLU", "sigmoid": "Sigmoid", "softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss",
    "split": "Split", "tanh": "TanH", "window_data": "WindowData",
}  # fmt: skip
_V0_PARAMS = {
    "conv": "convolution_param", "innerproduct": "inner_product_param", "pool": "pooling_param", "lrn": "lrn_param",
    "dropout": "dropout_param", "concat": "concat_param", "data": "data_param", "images": "image_data_param",
    "window_data": "window_data_param",
}  # fmt: skip
_V0_FIELDS = {"biasterm": "bias_term", "kernelsize": "kernel_size", "batchsize": "batch_size"}
_V0_TRANSFORMS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_SPECS = {"blobs_lr": "lr_mult", "weight_decay": "decay_mult", "param": "name", "blob_share_mode": "share_mode"}


def v1_type(block: Message) -> str:
    """Today's name for the type of a V1 block, or of the V0 block inside it; an unknown one as it is written."""
    v0 = block.first("layer")
    entry = block.first("type") if v0 is None else v0.message().first("type")
    if entry is None:
        return ""
    if v0 is not None:
        return _V0_TYPES.get(entry.string(), entry.string())
    if entry.kind is Kind.NUMBER:
        return V1_TYPES.get(entry.integer(), entry.text)
    known: dict[str, str] = _FORK_TYPES | {
        name: V1_TYPES[number] for name, number in pb.V1LayerParameter.LayerType.items()
    }
    return known.get(entry.word(), entry.word())


def fill_v1(param: pb.LayerParameter, block: Message, unread: list[Unread]) -> None:
    """Fill the typed parameters from a V1 block, the V0 block inside it included."""
    v0 = block.first("layer")
    fill(param, block, unread, skip={"name", "type", "bottom", "top", "blobs", "layer", *_SPECS})
    _fill_specs(param, block, unread)
    if v0 is not None:
        _fill_specs(param, v0.message(), unread)
        _fill_v0(param, v0.message(), unread)


def _fill_specs(param: pb.LayerParameter, block: Message, unread: list[Unread]) -> None:
    """The n-th `blobs_lr`, `weight_decay` and `param` name belong to the n-th ParamSpec."""
    for old, new in _SPECS.items():
        for index, entry in enumerate(block.all(old)):
            while len(param.param) <= index:
                param.param.add()
            if new not in harmless("ParamSpec"):
                set_or_report(param.param[index], new, entry, unread)


def _fill_v0(param: pb.LayerParameter, block: Message, unread: list[Unread]) -> None:
    """A V0 block has all parameters side by side: those of its type, and of the transformation of images."""
    if block.string("type") == "hdf5_data":
        return  # what it reads is no part of the net
    target = _V0_PARAMS.get(block.string("type"), "")
    once: set[str] = set()
    for entry in (entry for entry in block.entries if entry.name not in ("blobs", *_SPECS)):
        if entry.name in once and entry.kind is not Kind.MESSAGE:
            raise entry.fail(f"`{entry.name}` is given twice")
        once.add(entry.name)
        if entry.name not in ("name", "type"):
            _set_v0(param, target, entry, unread)


def _set_v0(param: pb.LayerParameter, target: str, entry: Entry, unread: list[Unread]) -> None:
    message: Proto = getattr(param, target) if target else param
    name = _V0_FIELDS.get(entry.name, entry.name)
    if entry.name in _V0_TRANSFORMS:
        message, name = param.transform_param, _V0_TRANSFORMS[entry.name]
    if name in harmless(message.DESCRIPTOR.name):
        return
    if message is not param and name in message.DESCRIPTOR.fields_by_name:
        set_or_report(message, name, entry, unread)
    else:
        unread.append(unknown_field(message, entry))
