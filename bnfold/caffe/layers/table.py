"""The one table of layer types: each is described by the ONNX nodes that it stands for.

A row is a function that gets a Builder, appends nodes and returns the values of the tops, and how the layer may be
connected. A new type is a row here; a program adds its own with `register`.
Semantics: BVLC Caffe, and for its forks SSD, Intel, NVIDIA, DeepLab, SegNet, Darknet's ports and the SENet family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ...ir.graph import Value
from ..net import Layer
from . import affine, batchnorm, detection, linear, recurrent, spatial
from . import data as source
from . import elementwise as element
from . import normalize as normal
from . import shape as form
from .builder import Builder

Describe = Callable[[Builder], list[Value]]
Rule = Callable[[Layer], bool]
MANY = 1 << 20


class Role(Enum):
    """What a layer is to the net."""

    PLAIN = "computes its tops from its bottoms"
    SOURCE = "is an input of the net"
    CUT = "belongs to training: the net ends at its bottoms"
    SINK = "takes its bottoms from the outputs of the net, and reads nothing of them"


def _never(_layer: Layer) -> bool:
    return False


def _always(_layer: Layer) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Row:
    """One layer type.

    `bottoms`, `tops`: the fewest and the most. `in_place`: whether a top may be the bottom it is written over.
    `shares`: whether the tops show the memory of the first bottom. `fixed`: its nodes are parts of a layer that stays
    or goes as a whole; False where the layer is no more than an affine or a linear operator. `lenient`: the layer is
    opaque where its numbers do not fit, since forks differ in it; else they are a fault of the file. `own`: the
    description reads fields that the schema lacks from the text itself.
    """

    describe: Describe
    bottoms: tuple[int, int] = (1, 1)
    tops: tuple[int, int] = (1, 1)
    role: Role = Role.PLAIN
    in_place: Rule = _never
    shares: Rule = _never
    fixed: bool = True
    lenient: bool = False
    own: bool = False

    def check(self, b: Builder) -> None:
        """Raises InputError for a number of bottoms or tops that the type does not take."""
        for name, have, (low, high) in (
            ("bottoms", len(b.layer.bottoms), self.bottoms),
            ("tops", len(b.layer.tops), self.tops),
        ):
            if not low <= have <= high:
                most = "or more" if high == MANY else f"to {high}" if high > low else ""
                raise b.fail(f"the layer has {have} {name}; type {b.layer.type} takes {low} {most}".rstrip())


ONE, TWO, ONE_OR_TWO, SOME, SEVERAL, ANY = (1, 1), (2, 2), (1, 2), (1, MANY), (2, MANY), (0, MANY)


def _no_tops(_b: Builder) -> list[Value]:
    return []


_UNARY = {"AbsVal": "Abs", "BNLL": "Softplus", "Sigmoid": "Sigmoid", "TanH": "Tanh"}
_NEURONS: dict[str, Describe] = {
    **{kind: element.operator(op) for kind, op in _UNARY.items()},
    "Clip": element.clip,
    "Dropout": element.dropout,
    "ELU": element.elu,
    "Exp": element.exp,
    "Log": element.log,
    "PReLU": element.prelu,
    "ReLU": element.relu,
    "ReLU6": element.relu6,
    "Swish": element.swish,
    "Threshold": element.threshold,
}
_DATA = "Data ImageData HDF5Data MemoryData WindowData AnnotatedData VideoData DetectNetTransformation"
_TRAINING = (
    "Accuracy ContrastiveLoss EuclideanLoss HingeLoss InfogainLoss MultiBoxLoss MultinomialLogisticLoss "
    "SigmoidCrossEntropyLoss SmoothL1Loss SoftmaxWithLoss HDF5Output DetectionEvaluate"
)

ROWS: dict[str, Row] = {
    **{kind: Row(describe, in_place=_always) for kind, describe in _NEURONS.items()},
    **{kind: Row(source.data, (0, 0), SOME, Role.SOURCE) for kind in _DATA.split()},
    **{kind: Row(_no_tops, SOME, ANY, Role.CUT) for kind in _TRAINING.split()},
    "AbsVal": Row(_NEURONS["AbsVal"]),
    "ArgMax": Row(form.arg_max),
    "Axpy": Row(element.axpy, (3, 3), lenient=True),
    "BN": Row(batchnorm.bn, in_place=_always, fixed=False),
    "BatchNorm": Row(batchnorm.batch_norm, in_place=_always, fixed=False),
    "BatchReindex": Row(form.batch_reindex, TWO),
    "Bias": Row(affine.bias, ONE_OR_TWO, in_place=_always, fixed=False),
    "Concat": Row(form.concat, SOME, shares=form.is_alone),
    "ContinuationIndicator": Row(recurrent.continuation_indicator, (0, 0)),
    "Convolution": Row(linear.convolution, SOME, SOME, fixed=False),
    "ConvolutionDepthWise": Row(linear.depthwise, SOME, SOME, fixed=False),
    "ConvolutionDepthwise": Row(linear.depthwise, SOME, SOME, fixed=False),
    "Crop": Row(form.crop, TWO),
    "CuDNNBatchNorm": Row(batchnorm.cudnn_batch_norm, in_place=_always, fixed=False),
    "Deconvolution": Row(linear.deconvolution, SOME, SOME, fixed=False),
    "DepthwiseConvolution": Row(linear.depthwise, SOME, SOME, fixed=False),
    "DetectionOutput": Row(detection.detection_output, (3, 5), lenient=True),
    "DummyData": Row(source.dummy_data, (0, 0), SOME),
    "Eltwise": Row(element.eltwise, SEVERAL, in_place=element.eltwise_in_place),
    "Embed": Row(linear.embed),
    "Filter": Row(form.filter_, SEVERAL, SOME),
    "Flatten": Row(form.flatten, shares=_always),
    "Im2col": Row(linear.im2col),
    "InnerProduct": Row(linear.inner_product, fixed=False),
    "Input": Row(source.inputs, (0, 0), SOME, Role.SOURCE),
    "Interp": Row(spatial.interp, ONE_OR_TWO, lenient=True),
    "LRN": Row(normal.lrn),
    "LSTM": Row(recurrent.lstm, SEVERAL, SOME),
    "MVN": Row(normal.mvn, in_place=_always),
    "Normalize": Row(normal.normalize, lenient=True),
    "Parameter": Row(source.parameter, (0, 0)),
    "Permute": Row(form.permute, shares=form.shares_permuted, lenient=True),
    "Pooling": Row(spatial.pooling, ONE, ONE_OR_TWO),
    "Power": Row(element.power, in_place=_always),
    "PriorBox": Row(detection.prior_box, TWO, lenient=True),
    "RNN": Row(recurrent.rnn, SEVERAL, SOME),
    "ROIPooling": Row(spatial.roi_pooling, TWO, lenient=True),
    "Reduction": Row(form.reduction),
    "Reorg": Row(form.reorg, lenient=True),
    "Reshape": Row(form.reshape, shares=_always),
    "Reverse": Row(form.reverse),
    "SPP": Row(spatial.spp),
    "Scale": Row(affine.scale, ONE_OR_TWO, in_place=_always, fixed=False),
    "ShuffleChannel": Row(form.shuffle_channel, lenient=True),
    "Silence": Row(form.silence, SOME, (0, 0), Role.SINK),
    "Slice": Row(form.slice_, ONE, SOME, shares=form.is_alone),
    "Softmax": Row(form.softmax, in_place=_always),
    "Split": Row(form.split, ONE, SOME, shares=_always),
    "SyncBN": Row(batchnorm.bn, in_place=_always, fixed=False),
    "Tile": Row(form.tile),
    "Upsample": Row(spatial.upsample, ONE_OR_TWO, lenient=True),
    "Yolov3DetectionOutput": Row(detection.yolov3_detection_output, SOME, lenient=True),
}


def register(
    kind: str,
    describe: Describe,
    *,
    bottoms: tuple[int, int] = ONE,
    tops: tuple[int, int] = ONE,
    in_place: bool = False,
) -> None:
    """Teach bnfold a layer type of your own, or describe one anew.

    `describe` gets a `bnfold.caffe.layers.builder.Builder`, appends ONNX nodes with its `node`, and returns one value
    for each top. Parameters are in `builder.param` where bnfold knows their message, else as text in
    `builder.layer.block`; all of them are for `describe` to read:

        def mish(b):
            return [b.node("Mul", b.x, b.node("Tanh", b.node("Softplus", b.x)))]

        register("Mish", mish, in_place=True)
    """
    ROWS[kind] = Row(describe, bottoms, tops, in_place=_always if in_place else _never, own=True)
