"""Layers whose numbers do not fit: refused, or left opaque where forks differ, with a sentence that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.lowered import Lowered
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import InputError

from ..build import Array, data, layer, noise, save

RELU, TANH = layer("ReLU", "r", "x", "a"), layer("TanH", "t", "x", "y")
INPUTS = {
    "x": (2, 3, 4, 5), "row": (2, 3), "vector": (7,), "small": (1, 2, 2, 2), "wide": (1, 2, 6, 5), "line": (1, 2, 1, 4),
    "boxes": (1, 8), "scores": (1, 2), "priors": (1, 2, 8),
}  # fmt: skip
CUBE, MATRIX = noise("w", 1, 3, 9, 9), noise("w", 4, 3)


def of(kind: str, body: str = "", bottoms: str = "x", tops: str = "y") -> str:
    return layer(kind, "l", bottoms, tops, body)


def lowered(folder: Path, text: str, blobs: list[Array]) -> Lowered:
    """The layers in `text` on those of the inputs that they read; the blobs are those of layer `l`."""
    inputs = [data(*shape, name=name) for name, shape in INPUTS.items() if f'"{name}"' in text]
    return lower(load(*save(folder, "".join(inputs) + text, {"l": blobs} if blobs else {"none": [np.zeros(1)]})))


REFUSED: dict[str, tuple[str, str, list[Array]]] = {
    "bottom that nobody makes": (of("ReLU", "", "z"), "'z'", []),
    "two makers of one blob": (of("ReLU") + TANH, "second layer", []),
    "in place beside another reader": (TANH + of("ReLU", "", "x", "x"), "reads", []),
    "sum in place": (RELU + of("Eltwise", "", "a x", "a"), "in place", []),
    "LRN in place": (RELU + of("LRN", "", "a", "a"), "in place", []),
    "even LRN": (of("LRN", "lrn_param { local_size: 4 }"), "odd", []),
    "LRN of a matrix": (of("LRN", "", "row"), "needs 4 axes and its bottom row has shape (2, 3)", []),
    "MVN of five axes": (
        of("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 1 dim: 4 dim: 5 } }", "x", "a")
        + layer("MVN", "m", "a", "y"), "at most 4 axes", [],
    ),
    "PReLU of a vector": (of("PReLU", "", "vector"), "2 to 4 axes", [noise("s", 7)]),
    "Log of base 1": (of("Log", "log_param { base: 1 }"), "positive and not 1", []),
    "pad as large as the kernel": (of("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"), "smaller than", []),
    "kernel beyond the image": (
        of("Convolution", "convolution_param { num_output: 1 kernel_size: 9 }"), "reaches over 9",
        [CUBE, noise("b", 1)],
    ),
    "convolution of a matrix": (
        of("Convolution", "convolution_param { num_output: 4 kernel_size: 1 }", "row"), "needs spatial axes",
        [MATRIX, noise("b", 4)],
    ),
    "convolution of unlike images": (
        of("Convolution", "convolution_param { num_output: 4 kernel_size: 1 }", "small wide", "y z"),
        "must have one shape", [noise("w", 4, 2, 1, 1), noise("b", 4)],
    ),
    "deconvolution that is all padding": (
        of("Deconvolution", "convolution_param { num_output: 3 kernel_size: 1 pad: 3 bias_term: false }"),
        "takes away all of the result", [noise("w", 3, 3, 1, 1)],
    ),
    "global pooling with a kernel": (
        of("Pooling", "pooling_param { global_pooling: true kernel_size: 2 }"), "no kernel", [],
    ),
    "global pooling with a stride": (
        of("Pooling", "pooling_param { global_pooling: true stride: 2 }"), "pad 0 and stride 1", [],
    ),
    "pooling whose padding is its kernel": (
        of("Pooling", "pooling_param { kernel_size: 1 pad: 1 }"), "padding (1, 1), (1, 1) must be smaller", [],
    ),
    "average with a mask": (
        of("Pooling", "pooling_param { pool: AVE kernel_size: 2 }", "x", "y z"), "average pooling makes one top", [],
    ),
    "one bottom of Eltwise": (of("Eltwise"), "1 bottoms", []),
    "sum of unlike shapes": (of("Eltwise", "", "x small"), "must have one shape", []),
    "coefficients of another number": (of("Eltwise", "eltwise_param { coeff: 1 }", "x x"), "coefficients", []),
    "axis out of range": (of("Softmax", "softmax_param { axis: 4 }"), "axis 4", []),
    "join of unlike images": (of("Concat", "", "small wide"), "does not join (1, 2, 2, 2) along axis 1", []),
    "join of unlike ranks": (of("Concat", "", "x row"), "does not join", []),
    "flatten that ends before it starts": (
        of("Flatten", "flatten_param { axis: 3 end_axis: 1 }"), "before it starts at 3", [],
    ),
    "reshape that does not fit": (of("Reshape", "reshape_param { shape { dim: 7 } }"), "does not reshape", []),
    "reshape of axes that are not there": (
        of("Reshape", "reshape_param { shape { dim: -1 } axis: 3 num_axes: 2 }"), "do not lie within x", [],
    ),
    "reshape with two extents open": (
        of("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), "more than one -1", [],
    ),
    "reshape that copies too much": (
        of("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 0 } }", "row"), "copies an axis that row", [],
    ),
    "slices that do not divide": (of("Slice", "slice_param { axis: 1 }", "x", "y z"), "does not divide", []),
    "crop that leaves the image": (of("Crop", "crop_param { axis: 3 offset: 2 }", "small wide"), "leaves it", []),
    "selector of several columns": (of("Filter", "", "x row"), "a selector (N, 1, ...)", []),
    "selector of another length": (of("Filter", "", "x vector"), "does not go with x", []),
    "weights that are missing": (of("Scale"), "no weights", []),
    "scale of axes that are not there": (
        of("Scale", "scale_param { axis: 3 num_axes: 2 }"), "do not lie within x", [noise("g", 5)],
    ),
    "scale by what does not fit": (of("Scale", "", "x small"), "the second bottom (1, 2, 2, 2) does not fit", []),
    "flags of other steps": (
        of("RNN", "recurrent_param { num_output: 4 }", "x vector"), "the flags have shape (7,)",
        [noise("w", 4, 20), noise("b", 4), noise("h", 4, 4), noise("o", 4, 4), noise("p", 4)],
    ),
    "indicators without end": (
        of("ContinuationIndicator", "continuation_indicator_param { time_step: 65536 batch_size: 65536 }", ""),
        "are too many", [],
    ),
    "constants of several shapes": (
        of("DummyData", "dummy_data_param { shape { dim: 2 } shape { dim: 3 } }", ""), "1 tops, 2 shapes", [],
    ),
    "constants of a negative extent": (of("DummyData", "dummy_data_param { shape { dim: -2 } }", ""), "negative", []),
    "inputs of several shapes": (
        of("Input", "input_param { shape { dim: 2 } shape { dim: 3 } }", "", "y"), "1 tops and 2 shapes", [],
    ),
}  # fmt: skip
"""What -> layers, a part of what is told, the blobs of layer `l`."""


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_file_layer_and_reason(what: str, tmp_path: Path) -> None:
    text, reason, blobs = REFUSED[what]
    with pytest.raises(InputError) as caught:
        lowered(tmp_path, text, blobs)
    assert reason in str(caught.value)
    assert "net.prototxt" in caught.value.where
    assert "layer" in caught.value.where


OPAQUE: dict[str, tuple[str, str]] = {
    "stochastic pooling": (of("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), "stochastic pooling"),
    "mask of empty windows": (
        of("Pooling", "pooling_param { kernel_size: 1 stride: 4 }", "x", "y z"), "the mask of an empty pooling window",
    ),
    "pyramid without levels": (of("SPP"), "this pyramid has no description"),
    "order that is none": (of("Permute", "permute_param { order: 1 order: 1 }"), "is no order of the axes"),
    "groups that do not divide": (
        of("ShuffleChannel", "shuffle_channel_param { group: 2 }"), "do not divide into 2 groups",
    ),
    "stride that does not divide": (of("Reorg", "reorg_param { stride: 2 }"), "stride 2 does not divide"),
    "reorg in reverse": (of("Reorg", "reorg_param { stride: 2 reverse: true }", "small"), "in reverse"),
    "resampling to nothing": (of("Interp"), "needs a size, a factor, or a second bottom"),
    "resampling with a border": (of("Interp", "interp_param { pad_beg: 1 zoom_factor: 2 }"), "must not be positive"),
    "upsampling by a fraction": (of("Upsample", "upsample_param { scale: 1.5 }"), "must be a whole number"),
    "upsampling by nothing": (of("Upsample"), "needs a scale"),
    "unpooling to nothing": (
        of("Upsample", "upsample_param { scale: 1 pad_out_h: true }", "line line"), "cannot be brought to",
    ),
    "three variances": (
        of("PriorBox", "prior_box_param { min_size: 4 variance: 1 variance: 2 variance: 3 }", "small wide"), "1 or 4",
    ),
    "background alone": (
        of("DetectionOutput", "detection_output_param { num_classes: 1 }", "boxes scores priors"),
        "that is the background",
    ),
    "window of too many taps": (of("Im2col", "convolution_param { kernel_size: 65 pad: 40 }"), "too large"),
    "filler of random numbers": (
        of("DummyData", 'dummy_data_param { shape { dim: 2 } data_filler { type: "gaussian" } }', ""),
        "a gaussian filler makes new random numbers in each pass",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OPAQUE)
def test_left_opaque_with_a_reason(what: str, tmp_path: Path) -> None:
    text, reason = OPAQUE[what]
    (told,) = lowered(tmp_path, text, []).opaque.values()
    assert reason in told.reason
