"""A layer for every row of the table of layer types, with the formula of what Caffe computes: a new row needs one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnfold.caffe.layers.table import Role

from ..build import Array, noise
from . import formulas as f
from .formulas import Formula, sigmoid
from .test_layers_detection import YOLO, detections, yolo_detections


class Case(NamedTuple):
    """The text of a layer, its bottoms and blobs in float32; the formula gives its top, or a list of its tops."""

    text: str
    formula: Formula
    bottoms: tuple[Array, ...]
    blobs: tuple[Array, ...] = ()


X = noise("x", 2, 4, 5, 6)
Z = noise("z", 2, 4, 5, 6)
EVEN = noise("even", 2, 8, 4, 6)
GAMMA, BETA, MEAN = (noise(name, 4) for name in ("gamma", "beta", "mean"))
VARIANCE = noise("variance", 4) ** 2 + np.float32(0.1)
FACTOR = np.array([999.98], np.float32)
BVLC, FORKS = (MEAN * FACTOR, VARIANCE * FACTOR, FACTOR), (GAMMA, BETA, MEAN, VARIANCE)


def on(text: str, formula: Formula, *bottoms: Array, blobs: tuple[Array, ...] = ()) -> Case:
    return Case(text, formula, bottoms or (X,), blobs)


def filters(*shape: int, bias: int = 0) -> tuple[Array, ...]:
    return (noise("w", *shape), *([noise("b", bias)] if bias else []))


def along(axis: int, vector: Array, rank: int = 4) -> Array:
    return vector.reshape([*(1,) * axis, *vector.shape, *(1,) * (rank - axis - vector.ndim)])


CONV = "convolution_param { num_output: 4 kernel_size: %d %s }"
DEPTHWISE = [on(CONV % (3, "pad: 1"), f.convolution(groups=4, pad=1), blobs=filters(4, 1, 3, 3, bias=4))]

BOX = np.array([[0.1, 0.2, 0.4, 0.5], [0.3, 0.1, 0.9, 0.6], [0.12, 0.2, 0.42, 0.5]], np.float32)
SCORES = np.array([[[0.1, 0.9], [0.3, 0.7], [0.2, 0.8]]], np.float32)
FEATURES = 2 * noise("features", 1, 16, 3, 3)


def single_detections(_: Array, scores: Array, prior: Array) -> Array:
    """Of boxes that are the anchors themselves."""
    boxes = np.broadcast_to(prior[0, 0].reshape(-1, 4), (1, 2, 3, 4))
    return np.array(detections(boxes, scores.reshape(1, 3, 2), 10, 5, 0.2, 0.4))[None, None]


def anchors(x: Array, image: Array) -> Array:
    """One square of 4 pixels at each element, and the default variance."""
    boxes = []
    for row, column in np.ndindex(*x.shape[2:]):
        step = [extent / own for extent, own in zip(image.shape[:1:-1], x.shape[:1:-1], strict=True)]
        middle = [(column + 0.5) * step[0], (row + 0.5) * step[1]]
        boxes += [(middle[i % 2] + (-2 if i < 2 else 2)) / image.shape[3 - i % 2] for i in range(4)]
    return np.array([[boxes, [0.1] * len(boxes)]])


RECURRENT = (noise("steps", 5, 2, 3), np.array([[0, 0], [1, 1], [1, 0], [0, 1], [1, 1]], np.float32))
ROIS = np.array([[0, 0, 0, 3, 3], [1, 1, 2, 5, 4], [0, 2, 0, 4, 4]], np.float32)
TWICE = ROIS * np.float32([1, 2, 2, 2, 2])
MASKED = np.array([[[[0, 3], [13, 22]]]], np.float32)

CASES: dict[str, list[Case]] = {
    # element by element
    "AbsVal": [on("", np.abs)],
    "BNLL": [on("", lambda x: np.log1p(np.exp(x)))],
    "Clip": [on("clip_param { min: -0.5 max: 1 }", lambda x: x.clip(-0.5, 1))],
    "Dropout": [on("dropout_param { dropout_ratio: 0.9 }", lambda x: x)],
    "ELU": [on("elu_param { alpha: 0.5 }", lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)))],
    "Exp": [
        on("", np.exp), on("exp_param { base: 2 scale: 3 shift: 0.5 }", lambda x: 2 ** (3 * x + 0.5)),
        on("exp_param { base: 1 }", np.ones_like),
    ],
    "Log": [
        on("log_param { base: 10 scale: 0.1 shift: 5 }", lambda x: np.log10(0.1 * x + 5)),
        on("log_param { shift: 9 }", lambda x: np.log(x + 9)),
    ],
    "Power": [
        on("power_param { power: 3 scale: 2 shift: 1 }", lambda x: (2 * x + 1) ** 3),
        on("power_param { scale: -2 shift: 1 }", lambda x: 1 - 2 * x), on("power_param { power: 0 }", np.ones_like),
        on("power_param { power: 2 scale: 0 shift: 3 }", lambda x: np.full_like(x, 9)),
    ],
    "PReLU": [
        on("", lambda x, slope: np.where(x > 0, x, along(1, slope) * x), blobs=(GAMMA,)),
        on("prelu_param { channel_shared: true }", lambda x, s: np.where(x > 0, x, s * x), blobs=(np.float32(0.3),)),
    ],
    "ReLU": [
        on("", lambda x: x.clip(0)), on("relu_param { negative_slope: -0.5 }", lambda x: np.where(x > 0, x, -0.5 * x)),
    ],
    "ReLU6": [
        on("", lambda x: x.clip(0, 6), 4 * X),
        on("relu6_param { negative_slope: 0.1 }", lambda x: np.minimum(np.where(x > 0, x, 0.1 * x), 6), 4 * X),
    ],
    "Sigmoid": [on("", sigmoid)],
    "Swish": [on("swish_param { beta: 2 }", lambda x: x * sigmoid(2 * x)), on("", lambda x: x * sigmoid(x))],
    "TanH": [on("", np.tanh)],
    "Threshold": [on("threshold_param { threshold: 0.3 }", lambda x: (x > 0.3) * 1.0)],
    "Axpy": [on("", lambda a, x, y: a * x + y, noise("a", 2, 4, 1, 1), X, Z)],
    "Eltwise": [
        on("", lambda x, y, z: x + y + z, X, Z, X * Z),
        on("eltwise_param { coeff: 2 coeff: -1 }", lambda x, y: 2 * x - y, X, Z),
        on("eltwise_param { operation: PROD }", np.multiply, X, Z),
        on("eltwise_param { operation: MAX }", np.maximum, X, Z),
    ],
    # channel affines
    "BatchNorm": [
        on("", f.batch_norm(), blobs=BVLC), on("batch_norm_param { eps: 0.5 }", f.batch_norm(0.5), blobs=BVLC),
    ],
    "BN": [on("bn_param { eps: 0.01 }", f.affine_norm(0.01), blobs=FORKS)],
    "SyncBN": [on("", f.affine_norm(), blobs=FORKS)],
    "CuDNNBatchNorm": [on("batch_norm_param { eps: 1e-9 }", f.affine_norm(), blobs=FORKS)],
    "Scale": [
        on("scale_param { bias_term: true }", lambda x, g, b: x * along(1, g) + along(1, b), blobs=(GAMMA, BETA)),
        on("scale_param { axis: -1 }", lambda x, g: x * g, blobs=(noise("g", 6),)),
        on("scale_param { axis: 2 num_axes: 2 }", lambda x, g: x * g, blobs=(noise("g", 5, 6),)),
        on("scale_param { num_axes: 0 }", lambda x, g: x * g, blobs=(np.float32(-1.5),)),
        on("scale_param { axis: 0 }", lambda x, g: x * along(0, g), X, noise("g", 2, 4)),
    ],
    "Bias": [
        on("", lambda x, b: x + along(1, b), blobs=(BETA,)),
        on("bias_param { axis: 2 num_axes: -1 }", lambda x, b: x + b, blobs=(noise("b", 5, 6),)),
        on("bias_param { axis: 0 }", lambda x, b: x + along(0, b), X, noise("b", 2, 4)),
    ],
    # weights
    "Convolution": [
        on(CONV % (3, ""), f.convolution(), blobs=filters(4, 4, 3, 3, bias=4)),
        on(CONV % (3, "group: 2 stride: 2 pad: 1 bias_term: false"), f.convolution(2, 2, 1), blobs=filters(4, 2, 3, 3)),
        on(CONV % (2, "dilation: 2"), f.convolution(apart=2), blobs=filters(4, 4, 2, 2, bias=4)),
        on(CONV % (2, ""), f.convolution(), noise("cube", 1, 3, 3, 4, 3), blobs=filters(4, 3, 2, 2, 2, bias=4)),
        on(CONV % (1, ""), lambda x, z, w, b: [f.convolution()(v, w, b) for v in (x, z)], X, Z,
           blobs=filters(4, 4, 1, 1, bias=4)),
    ],
    "ConvolutionDepthWise": DEPTHWISE,
    "ConvolutionDepthwise": DEPTHWISE,
    "DepthwiseConvolution": DEPTHWISE,
    "Deconvolution": [
        on(CONV % (3, ""), f.deconvolution(), blobs=filters(4, 4, 3, 3, bias=4)),
        on(CONV % (4, "stride: 2 pad: 1 group: 2"), f.deconvolution(2, 2, 1), blobs=filters(4, 2, 4, 4, bias=4)),
    ],
    "InnerProduct": [
        on("inner_product_param { num_output: 3 }", f.inner_product, blobs=filters(3, 120, bias=3)),
        on("inner_product_param { num_output: 3 transpose: true }", lambda x, w, b: f.inner_product(x, w.T, b),
           blobs=filters(120, 3, bias=3)),
        on("inner_product_param { num_output: 3 axis: 3 bias_term: false }", lambda x, w: x @ w.T, blobs=filters(3, 6)),
    ],
    "Embed": [
        on("embed_param { input_dim: 7 num_output: 3 }", f.embed, np.float32([[0, 6, 2], [2, 5, 1]]),
           blobs=filters(7, 3, bias=3)),
        on("embed_param { input_dim: 7 num_output: 3 bias_term: false }", lambda x, w: f.embed(x, w, w[0] * 0),
           np.float32([3, 1]), blobs=filters(7, 3)),
    ],
    "Im2col": [
        on("convolution_param { kernel_size: 3 }", f.im2col((3, 3))),
        on("convolution_param { kernel_h: 2 kernel_w: 3 stride: 2 pad: 1 }", f.im2col((2, 3), stride=2, pad=1)),
        on("convolution_param { kernel_size: 2 dilation: 3 }", f.im2col((2, 2), apart=3)),
    ],
    # normalisation by what the bottom holds
    "LRN": [
        on("lrn_param { alpha: 0.5 k: 2 }", f.lrn_across(5, 0.5, 0.75, 2)),
        on("lrn_param { local_size: 3 alpha: 2 beta: 0.5 norm_region: WITHIN_CHANNEL }", f.lrn_within(3, 2, 0.5)),
    ],
    "MVN": [
        on("", f.mvn((2, 3))), on("mvn_param { across_channels: true eps: 0.5 }", f.mvn((1, 2, 3), eps=0.5)),
        on("mvn_param { normalize_variance: false }", f.mvn((2, 3), variance=False)),
        on("mvn_param { across_channels: true }", lambda x: f.mvn((1, 2, 3))(x[:, :, None, None]), noise("flat", 2, 4)),
    ],
    "Normalize": [
        on("norm_param { across_spatial: false channel_shared: false }", f.normalize((1,)), blobs=(GAMMA,)),
        on("", f.normalize((1, 2, 3)), blobs=(np.float32(2),)),
    ],
    "Softmax": [on("", f.softmax(1)), on("softmax_param { axis: -1 }", f.softmax(3))],
    # over an image
    "Pooling": [
        on("pooling_param { kernel_size: 3 stride: 2 }", f.pool("MAX", 3, 2)),
        on("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", f.pool("AVE", 3, 2, 1)),
        on("pooling_param { pool: AVE global_pooling: true }", lambda x: x.mean((2, 3), keepdims=True)),
    ],
    "SPP": [
        on("spp_param { pyramid_height: 3 }", f.spp("MAX", 3), noise("wide", 2, 3, 7, 10)),
        on("spp_param { pyramid_height: 2 pool: AVE }", f.spp("AVE", 2), noise("wide", 2, 3, 7, 5)),
        on("spp_param { pyramid_height: 1 }", lambda x: x.max((2, 3), keepdims=True)),
    ],
    "Interp": [
        on("interp_param { height: 9 width: 7 }", f.interp(9, 7)),
        on("interp_param { zoom_factor: 3 }", f.interp(13, 16)),
        on("interp_param { shrink_factor: 2 }", f.interp(3, 3)),
        on("interp_param { pad_beg: -1 pad_end: -1 zoom_factor: 2 }", lambda x: f.interp(5, 7)(x[:, :, 1:-1, 1:-1])),
        on("", lambda x, like: f.interp(3, 4)(x), X, noise("like", 1, 1, 3, 4)),
    ],
    "Upsample": [
        on("upsample_param { scale: 2 }", lambda x: x.repeat(2, 2).repeat(2, 3)),
        on("upsample_param { stride: 2 scale: 0.5 }", lambda x: 0.5 * x.repeat(2, 2).repeat(2, 3)),
        on("upsample_param { scale: 2 }", f.unpool, noise("small", 1, 1, 2, 2), MASKED % 16),
    ],
    "ROIPooling": [
        on("roi_pooling_param { pooled_h: 2 pooled_w: 2 }", f.roi_pooling(2, 2, 1), X, ROIS),
        on("roi_pooling_param { pooled_h: 1 pooled_w: 3 spatial_scale: 0.5 }", f.roi_pooling(1, 3, 0.5), X, TWICE),
    ],
    # what moves, selects, joins or summarises
    "ArgMax": [
        on("argmax_param { axis: 1 top_k: 2 }", f.arg_max(1, 2)),
        on("argmax_param { axis: -1 out_max_val: true }", f.arg_max(3, 1, values=True)),
        on("", lambda x: f.arg_max(1, 1)(x.reshape(2, -1))[:, None, :, None]),
    ],
    "BatchReindex": [on("", lambda x, at: x[at.astype(int)], X, np.float32([1, 0, 0, 1, 1]))],
    "Concat": [
        on("", lambda *inputs: np.concatenate(inputs, 1), X, Z),
        on("concat_param { axis: 0 }", lambda *inputs: np.concatenate(inputs), X, Z),
        on("concat_param { concat_dim: 1 }", lambda x: x),
    ],
    "Crop": [
        on("crop_param { offset: 1 }", lambda x, like: x[:, :, 1:4, 1:5], X, noise("like", 2, 4, 3, 4)),
        on("crop_param { axis: 1 offset: 2 offset: 0 offset: 3 }", lambda x, like: x[:, 2:, :2, 3:], X,
           noise("like", 1, 2, 2, 3)),
    ],
    "Filter": [
        on("", lambda x, z, keep: [v[keep != 0] for v in (x, z)], EVEN, noise("other", 2, 3), np.float32([0, 1])),
    ],
    "Flatten": [
        on("", lambda x: x.reshape(2, -1)), on("flatten_param { axis: -3 end_axis: 2 }", lambda x: x.reshape(2, 20, 6)),
    ],
    "Permute": [
        on("permute_param { order: 0 order: 2 order: 3 order: 1 }", lambda x: x.transpose(0, 2, 3, 1)),
        on("permute_param { order: 0 order: 2 }", lambda x: x.transpose(0, 2, 1, 3)),
        on("permute_param { order: 0 order: 1 }", lambda x: x),
    ],
    "Reduction": [
        on("reduction_param { axis: 1 coeff: 0.5 }", lambda x: 0.5 * x.sum((1, 2, 3))),
        on("reduction_param { operation: ASUM axis: 2 }", lambda x: np.abs(x).sum((2, 3))),
        on("reduction_param { operation: SUMSQ axis: -1 }", lambda x: (x * x).sum(3)),
        on("reduction_param { operation: MEAN }", np.mean),
    ],
    "Reorg": [on("reorg_param { stride: 2 }", f.reorg(2), EVEN)],
    "Reshape": [
        on("reshape_param { shape { dim: 0 dim: -1 dim: 3 } }", lambda x: x.reshape(2, 40, 3)),
        on("reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }", lambda x: x.reshape(2, 2, 2, 5, 6)),
    ],
    "Reverse": [on("reverse_param { axis: 1 }", lambda x: x[:, ::-1]), on("", lambda x: x[::-1])],
    "ShuffleChannel": [on("shuffle_channel_param { group: 4 }", f.shuffle(4), EVEN)],
    "Slice": [
        on("slice_param { slice_point: 1 slice_point: 3 }", lambda x: [x[:, :1], x[:, 1:3], x[:, 3:]]),
        on("slice_param { axis: 3 }", lambda x: [x[..., :3], x[..., 3:]]), on("", lambda x: x),
    ],
    "Split": [on("", lambda x: [x, x, x])],
    "Tile": [
        on("tile_param { tiles: 3 }", lambda x: np.tile(x, (1, 3, 1, 1))),
        on("tile_param { axis: -1 tiles: 2 }", lambda x: np.tile(x, 2)),
    ],
    # without bottoms
    "ContinuationIndicator": [
        Case("continuation_indicator_param { time_step: 3 batch_size: 2 }",
             lambda: np.array([[0, 0], [1, 1], [1, 1]]), ()),
    ],
    "DummyData": [
        Case("dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 1.5 } }",
             lambda: np.full((2, 3), 1.5), ()),
    ],
    "Parameter": [Case("parameter_param { shape { dim: 2 dim: 4 } }", lambda w: w, (), filters(2, 4))],
    # recurrence
    "LSTM": [
        on("recurrent_param { num_output: 4 }", f.lstm, *RECURRENT,
           blobs=(*filters(16, 3, bias=16), noise("wh", 16, 4))),
        on("recurrent_param { num_output: 4 expose_hidden: true }", f.lstm_from, RECURRENT[0], RECURRENT[1][::-1],
           noise("static", 2, 5), noise("h", 1, 2, 4), noise("c", 1, 2, 4),
           blobs=(*filters(16, 3, bias=16), noise("ws", 16, 5), noise("wh", 16, 4))),
    ],
    "RNN": [
        on("recurrent_param { num_output: 4 }", f.rnn, *RECURRENT,
           blobs=(*filters(4, 3, bias=4), noise("wh", 4, 4), noise("wo", 4, 4), noise("bo", 4))),
    ],
    # detection
    "PriorBox": [on("prior_box_param { min_size: 4 }", anchors, noise("p", 1, 1, 2, 3), noise("image", 1, 3, 40, 60))],
    "DetectionOutput": [
        on("detection_output_param { num_classes: 2 keep_top_k: 5 confidence_threshold: 0.2 "
           "nms_param { nms_threshold: 0.4 top_k: 10 } }", single_detections,
           np.zeros((1, 12), np.float32), SCORES.reshape(1, 6),
           np.stack([BOX.reshape(-1), np.full(12, 0.1, np.float32)])[None]),
    ],
    "Yolov3DetectionOutput": [
        on(f"yolov3_detection_output_param {{ {YOLO} }}",
           lambda *levels: np.array(yolo_detections(list(levels), 0.3, 0.4))[None, None],
           FEATURES, 2 * noise("fine", 1, 16, 6, 6)),
    ],
}  # fmt: skip
"""Type -> layers of it, each form that has a description of its own."""

SOURCES = "Input Data ImageData HDF5Data MemoryData WindowData AnnotatedData VideoData DetectNetTransformation"
CUTS = (
    "Accuracy ContrastiveLoss EuclideanLoss HingeLoss InfogainLoss MultiBoxLoss MultinomialLogisticLoss "
    "SigmoidCrossEntropyLoss SmoothL1Loss SoftmaxWithLoss HDF5Output DetectionEvaluate"
)
SINKS = "Silence"
ROLES: dict[str, Role] = {
    **dict.fromkeys(SOURCES.split(), Role.SOURCE),
    **dict.fromkeys(CUTS.split(), Role.CUT),
    **dict.fromkeys(SINKS.split(), Role.SINK),
}
"""Types that compute nothing -> what they are to a net."""

OVER = (
    "BN BNLL BatchNorm Bias Clip CuDNNBatchNorm Dropout ELU Eltwise Exp Log MVN PReLU Power ReLU ReLU6 Scale Sigmoid "
    "Softmax Swish SyncBN TanH Threshold"
)
IN_PLACE = frozenset(OVER.split())
"""Types whose top may be their first bottom, an Eltwise's product among them: nothing is read that was written over."""
SHARING = frozenset(("Concat", "Flatten", "Permute", "Reshape", "Slice", "Split"))
"""Types whose top is, in one of their cases, the memory of their bottom: Caffe's ShareData."""
