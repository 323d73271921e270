"""Broken Caffe nets by the hundred: folding one ends well, or in an error told for people. Every row is in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from mutants import changed, refused, seeds

from bnfold.caffe.export import onnx_model
from bnfold.caffe.layers.builder import Builder
from bnfold.caffe.layers.table import ROWS, register
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import InputError
from bnfold.ir.graph import Value

from .build import Array, blob, fold, layer, noise, save, stored
from .layers.rows import CASES, CUTS

Net = tuple[str, dict[str, list[Array]]]
"""The prototxt, and the blobs by layer."""
INPUTS = {"x": (2, 4, 6, 6), "flags": (2, 4), "r": (3, 5), "size": (1, 3, 24, 24), "m": (2, 4, 6, 6), "n": (2,),
          "w": (2, 4, 1, 1), "loc": (1, 8), "conf": (1, 6), "prior": (1, 2, 8), "cells": (1, 16, 3, 3),
          "h": (1, 4, 3), "c0": (1, 4, 3)}  # fmt: skip


def net(rows: str, **blobs: list[Array]) -> Net:
    """x → Convolution → BatchNorm → `rows` from `a` to `b` → Power, and what else the rows read."""
    used = [name for name in INPUTS if name == "x" or f'bottom: "{name}"' in rows]
    text = "".join(f'input: "{n}" input_shape {{ {" ".join(f"dim: {e}" for e in INPUTS[n])} }}\n' for n in used)
    text += layer("Convolution", "c", "x", "c", "convolution_param { num_output: 4 kernel_size: 1 bias_term: false }")
    text += (
        layer("BatchNorm", "bn", "c", "a") + rows + layer("Power", "p", "b", "y", "power_param { scale: 2 shift: 1 }")
    )
    return text, {"c": [noise("c", 4, 4, 1, 1)], "bn": [noise("m", 4), noise("v", 4) ** 2, np.ones(1)], **blobs}


def row(kind: str, param: str = "", *blobs: Array, bottoms: str = "a", tops: str = "b") -> Net:
    return net(layer(kind, "l", bottoms, tops, param), l=list(blobs))


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


CONV = "convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 dilation: 1 group: 2 }"
DEPTHWISE = "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 pad_h: 1 pad_w: 0 bias_term: false }"
STATISTICS = [noise("1", 4), noise("2", 4), noise("3", 4), noise("4", 4) ** 2]
YOLO = """yolov3_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.3 nms_threshold: 0.4
    mask_group_num: 1 mask: 0 mask: 1 biases: 10 biases: 13 biases: 16 biases: 30 anchors_scale: 16 }"""
DATA = {
    "Data": "data_param { batch_size: 4 crop_size: 8 }",
    "ImageData": "image_data_param { batch_size: 4 new_height: 8 new_width: 8 }",
    "HDF5Data": "hdf5_data_param { batch_size: 4 }",
    "MemoryData": "memory_data_param { batch_size: 4 channels: 4 height: 6 width: 6 }",
    "WindowData": "window_data_param { batch_size: 4 crop_size: 6 }",
    "AnnotatedData": "transform_param { resize_param { height: 8 width: 6 } }",
    "VideoData": "transform_param { crop_h: 6 crop_w: 6 mean_value: 1 mean_value: 2 }",
    "DetectNetTransformation": "",
    "DummyData": 'dummy_data_param { shape { dim: 2 dim: 4 dim: 6 dim: 6 } data_filler { type: "constant" value: 2 } }',
    "Input": "input_param { shape { dim: 2 dim: 4 dim: 6 dim: 6 } }",
}
NETS: list[Net] = [
    *(net(layer(kind, "d", "", "d", DATA[kind]) + layer("ReLU", "l", "a", "b") + layer("ReLU", "e", "d", "e"))
      for kind in DATA),
    *(net(layer("ReLU", "l", "a", "b") + layer(kind, "l2", "b n", "loss")) for kind in CUTS.split()),
    row("Power", "power_param { power: 2 scale: 3 shift: 0.5 }"),
    row("ReLU", "relu_param { negative_slope: 0.5 }"),
    row("ArgMax", "argmax_param { top_k: 2 out_max_val: true axis: 1 }"),
    row("ArgMax", "argmax_param { top_k: 2 out_max_val: true }"),
    row("Axpy", "", bottoms="w a x"),
    row("BN", "bn_param { var_eps: 0.001 moving_average: true }", *STATISTICS),
    row("BN", "bn_param { bn_mode: INFERENCE }", *STATISTICS[:2]),
    row("SyncBN", "bn_param { eps: 0.001 }", *STATISTICS),
    row("BatchNorm", "batch_norm_param { eps: 0.001 use_global_stats: true }", *STATISTICS[:2], ones(1)),
    row("BatchNorm", "batch_norm_param { use_global_stats: false }", *STATISTICS[:2], ones(1), *STATISTICS[2:]),
    row("CuDNNBatchNorm", "batch_norm_param { eps: 0.001 }", *STATISTICS),
    row("BatchReindex", "", bottoms="a n"),
    row("Bias", "bias_param { axis: 1 num_axes: 1 }", ones(4)),
    row("Bias", "bias_param { axis: 0 }", bottoms="a x"),
    row("Concat", "concat_param { axis: 1 }", bottoms="a x"),
    row("ContinuationIndicator", "continuation_indicator_param { time_step: 3 batch_size: 2 }", bottoms=""),
    row("Convolution", CONV, ones(6, 2, 3, 3), ones(6)),
    row("Convolution", "convolution_param { num_output: 6 kernel_size: 3 axis: 2 }", ones(6, 6, 3), ones(6)),
    row("Convolution", CONV, ones(6, 2, 3, 3), ones(6), bottoms="a x", tops="b z"),
    *(row(kind, DEPTHWISE, ones(4, 1, 3, 2)) for kind in ("ConvolutionDepthWise", "ConvolutionDepthwise",
                                                         "DepthwiseConvolution")),
    row("Deconvolution", CONV, ones(4, 3, 3, 3), ones(6)),
    row("Crop", "crop_param { axis: 2 offset: 1 offset: 0 }", bottoms="size a"),
    row("DetectionOutput", """detection_output_param { num_classes: 3 share_location: true background_label_id: 0
        code_type: CENTER_SIZE keep_top_k: 5 confidence_threshold: 0.2 nms_param { nms_threshold: 0.4 top_k: 1 } }""",
        bottoms="loc conf prior"),
    row("Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }", bottoms="a x"),
    row("Eltwise", "eltwise_param { operation: PROD }", bottoms="a x"),
    row("Embed", "embed_param { input_dim: 7 num_output: 5 }", ones(7, 5), ones(5), bottoms="n"),
    row("Filter", "", bottoms="a n"),
    row("Flatten", "flatten_param { axis: 1 end_axis: 2 }"),
    row("Im2col", "convolution_param { kernel_size: 3 stride: 2 pad: 1 dilation: 1 }"),
    row("InnerProduct", "inner_product_param { num_output: 5 axis: 1 transpose: false }", ones(5, 144), ones(5)),
    row("Interp", "interp_param { height: 4 width: 5 pad_beg: -1 pad_end: 0 }"),
    row("Interp", "interp_param { shrink_factor: 2 zoom_factor: 3 }"),
    row("LRN", "lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 }"),
    row("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"),
    row("LSTM", "recurrent_param { num_output: 3 }", ones(12, 36), ones(12), ones(12, 3), bottoms="a flags"),
    row("RNN", "recurrent_param { num_output: 3 }", ones(3, 36), ones(3), ones(3, 3), ones(3, 3), ones(3),
        bottoms="a flags"),
    row("MVN", "mvn_param { across_channels: false normalize_variance: true eps: 0.1 }"),
    row("Normalize", "norm_param { across_spatial: false channel_shared: false eps: 0.1 }", ones(4)),
    row("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", ones(2, 3), bottoms=""),
    row("Permute", "permute_param { order: 0 order: 2 order: 1 }"),
    row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
    row("Pooling", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride_h: 5 stride_w: 1 }"),
    row("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", tops="b mask"),
    row("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    row("PriorBox", """prior_box_param { min_size: 10 max_size: 20 aspect_ratio: 2 flip: true clip: false variance: 0.1
        step: 4 img_size: 24 offset: 0.5 }""", bottoms="a size"),
    row("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 }", bottoms="a r"),
    row("Reduction", "reduction_param { operation: MEAN axis: 1 coeff: 2 }"),
    row("Reorg", "reorg_param { stride: 2 }"),
    row("Reshape", "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 6 } axis: 0 num_axes: -1 }"),
    row("Reverse", "reverse_param { axis: 1 }"),
    row("SPP", "spp_param { pyramid_height: 2 pool: MAX }"),
    row("Scale", "scale_param { axis: 1 num_axes: 1 bias_term: true }", ones(4), ones(4)),
    row("Scale", "scale_param { axis: 0 }", bottoms="a x"),
    row("ShuffleChannel", "shuffle_channel_param { group: 2 }"),
    net(layer("ReLU", "l", "a", "b") + layer("Silence", "s", "a n", "")),
    row("Slice", "slice_param { axis: 1 slice_point: 1 slice_point: 3 }", tops="b z w"),
    row("Softmax", "softmax_param { axis: 1 }"),
    row("Tile", "tile_param { axis: 1 tiles: 2 }"),
    row("Upsample", "upsample_param { scale: 2 }"),
    row("Upsample", "upsample_param { scale: 2 upsample_h: 12 upsample_w: 12 pad_out_h: 0 }", bottoms="a m"),
    row("Yolov3DetectionOutput", YOLO, bottoms="cells"),
]  # fmt: skip


def kinds() -> set[str]:
    return {kind for text, _ in NETS for kind in re.findall(r'type: "(\w+)"', text)}


NETS += [
    row(kind, case.text, *case.blobs, bottoms=" ".join("a" for _ in case.bottoms))
    for kind in sorted(CASES.keys() - kinds())
    for case in CASES[kind]
]
"""Types that need nothing of their own here: element-wise ones, of four channels."""


# ------------------------------------------------------------------------------------------------------------ mutations

INTEGERS = "0 1 2 3 4 5 7 64 65536 2147483647 -1 -2 -7 4294967295 4611686018427387904"
REALS = "0 0.5 -0.5 1.5 1e-30 1e30 -1e30 1e39 nan inf"
FIELD = re.compile(r"\b(?!name|type|bottom|top|input)\w+: [^\s\"]+")
WORDS = [
    "true false", "MAX AVE STOCHASTIC", "SUM PROD MAX", "SUM ASUM SUMSQ MEAN", "CORNER CENTER_SIZE CORNER_SIZE",
    "LEARN INFERENCE", "ACROSS_CHANNELS WITHIN_CHANNEL",
]  # fmt: skip
"""The words that go into one place of a prototxt."""


def replaced(rng: Random, value: str) -> str:
    if value[0] in "-0123456789":
        return rng.choice((INTEGERS if rng.random() < (0.2 if "." in value else 0.8) else REALS).split())
    return rng.choice(next((words for words in WORDS if value in words.split()), WORDS[0]).split())


def edited(rng: Random, text: str) -> str:
    """The text with a field changed, dropped or doubled, or a bottom or top changed."""
    first, last = (text.find('name: "bn"'), text.find('name: "p"')) if rng.random() < 0.9 else (0, len(text))
    found = rng.choice(list(FIELD.finditer(text, first, last)) or list(FIELD.finditer(text)))
    name, value = found.group().split(": ")
    how = rng.random()
    new = f"{name}: {replaced(rng, value)}" if how < 0.8 else "" if how < 0.92 else f"{found.group()} {found.group()}"
    if rng.random() < 0.1:
        found = rng.choice(list(re.finditer(r'(bottom|top): "\w+"', text)))
        ends = [*INPUTS, "a", "b", "c", "y"]
        new = rng.choice(["", f"{found.group()} {found.group()}", f'{found.group(1)}: "{rng.choice(ends)}"'])
    return text[: found.start()] + new + text[found.end() :]


def reshaped(rng: Random, array: Array) -> Array:
    shape = changed(rng, list(array.shape), lambda rng: rng.choice([0, 1, 2, 3, 4, 5, 6]))[:6]
    return np.resize(array, shape).astype(rng.choice([np.float32, np.float64]))


def reblobbed(rng: Random, blobs: dict[str, list[Array]]) -> dict[str, list[Array]]:
    blobs = {name: list(arrays) for name, arrays in blobs.items()}
    name = rng.choice(
        [name for name, arrays in blobs.items() if arrays and (name == "l" or rng.random() < 0.2)] or ["c"]
    )
    arrays = blobs[name]
    index = rng.randrange(len(arrays))
    how = rng.random()
    if how < 0.6:
        arrays[index] = reshaped(rng, arrays[index])
    elif how < 0.75:
        arrays.insert(index, reshaped(rng, arrays[index]))
    elif how < 0.85:
        del arrays[index]
    else:
        arrays[index] = np.full_like(arrays[index], rng.choice([0, -1, np.inf, np.nan, 1e30]))
    return blobs


def mutant(rng: Random) -> tuple[str, list[bytes]]:
    text, blobs = rng.choice(NETS)
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        if rng.random() < 0.8:
            text = edited(rng, text)
        elif blobs["c"]:
            blobs = reblobbed(rng, blobs)
    legacy = rng.random() < 0.1
    return text, [stored(name, *(written(array, legacy) for array in arrays)) for name, arrays in blobs.items()]


def written(array: Array, legacy: bool) -> bytes:
    return blob(array, legacy=legacy and array.ndim <= 4)


def attempt(folder: Path, made: tuple[str, Sequence[bytes]]) -> None:
    fold(save(folder, *made))


# ---------------------------------------------------------------------------------------------------------------- tests


def test_every_row_is_in_the_nets_and_these_are_sound(tmp_path: Path) -> None:
    assert set(ROWS) <= kinds()
    for text, blobs in NETS:
        files = save(tmp_path, text, {name: arrays for name, arrays in blobs.items() if arrays})
        found = lower(load(*files))
        assert not found.opaque, text
        assert not [node for node in found.graph.nodes if node.contradiction], text


def test_a_broken_net_is_folded_or_refused(tmp_path: Path) -> None:
    count = sum(refused(lambda rng=rng: attempt(tmp_path, mutant(rng))) for rng in seeds())
    assert count  # else nothing was broken


CONVOLVED = "convolution_param {{ num_output: 4 kernel_size: 1 {} }}"
ANCHORS = "prior_box_param {{ min_size: 10 {} }}"
HUGE = "input_param { shape { dim: 2147483647 dim: 2 } }"
REFUSED: list[tuple[Net, str]] = [
    (row("Convolution", CONVOLVED.format("group: 0"), ones(4, 4, 1, 1), ones(4)), "group must be positive and is 0"),
    (row("Convolution", CONVOLVED.format("stride: 0"), ones(4, 4, 1, 1), ones(4)), "stride must be positive and is 0"),
    (row("Convolution", CONVOLVED.format(""), ones(), ones(4)), r"blob 0 has shape \(\)"),
    (row("Convolution", CONVOLVED.replace("4", "0", 1).format(""), ones(4, 4, 1, 1), ones(4)), "num_output must be"),
    (row("InnerProduct", "inner_product_param { num_output: 0 }", ones(0, 144), ones(0)), "num_output must be"),
    (row("Embed", "embed_param { input_dim: 0 num_output: 2 }", ones(0, 2), ones(2), bottoms="n"), "input_dim must be"),
    (row("Pooling", "pooling_param { kernel_size: 0 }"), "kernel_size must be positive"),
    (row("Pooling", "pooling_param { kernel_size: 2 stride: 0 }"), "stride must be positive"),
    (row("Exp", "exp_param { scale: nan }"), "scale is nan"),
    (row("Log", "log_param { base: inf }"), "base is inf"),
    (row("Axpy", "", bottoms="n a x"), "Axpy needs channels"),
    (row("Reorg", "reorg_param { stride: 0 }"), "stride must be positive and is 0"),
    (row("ShuffleChannel", "shuffle_channel_param { group: 0 }"), "group must be positive"),
    (row("Tile", "tile_param { tiles: -1 }"), "tiles must be positive and is -1"),
    (row("Tile", "tile_param { tiles: 2147483647 }"), "larger than any"),
    (row("Reshape", "reshape_param { shape { dim: 0 dim: 9223372036854775807 } }"), "does not reshape"),
    (row("Upsample", "upsample_param { scale: inf }"), "scale must be positive and is inf"),
    (row("Upsample", "upsample_param { scale: 2 pad_out_h: 99 }", bottoms="a m"), "pad_out"),
    (row("Interp", "interp_param { zoom_factor: 0 }"), "zoom_factor must be positive"),
    (row("ROIPooling", "roi_pooling_param { pooled_h: 0 pooled_w: 2 }", bottoms="a r"), "pooled_h must be positive"),
    (row("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", bottoms="a x"), "do not fit together"),
    (row("LSTM", "recurrent_param { num_output: 3 }", ones(12, 1), ones(12), ones(12, 3), bottoms="n flags"),
     "needs steps and sequences"),
    (row("PReLU", "", ones(3)), "blob 0 has shape"),
    (row("PriorBox", ANCHORS.format("aspect_ratio: 0"), bottoms="a size"), "aspect_ratio must be positive and is 0"),
    (row("PriorBox", ANCHORS.format("max_size: -1"), bottoms="a size"), "max_size must be positive"),
    (row("PriorBox", ANCHORS.format("step: nan"), bottoms="a size"), "step is nan"),
    (row("DetectionOutput", "detection_output_param { num_classes: 0 }", bottoms="loc conf prior"),
     "num_classes must be"),
    (row("DetectionOutput", "detection_output_param { num_classes: 1 }", bottoms="loc n prior"),
     "do not fit the bottoms"),
    (row("Yolov3DetectionOutput", YOLO.replace("anchors_scale: 16", "anchors_scale: 0"), bottoms="cells"),
     "anchors_scale must be positive"),
    (row("Yolov3DetectionOutput", YOLO.replace("num_box: 2", "num_box: 0"), bottoms="cells"),
     "num_box must be positive"),
    (net(layer("ReLU", "l", "a", "b") + layer("Input", "d", "", "d", HUGE)),
     "larger than any"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_a_row_refuses_is_said_with_its_field(made: Net, message: str, tmp_path: Path) -> None:
    text, blobs = made
    files = save(tmp_path, text, {name: arrays for name, arrays in blobs.items() if arrays})
    with pytest.raises(InputError, match=message) as caught:
        onnx_model(*files)  # which refuses what is opaque for its numbers, too
    assert "layer l" in caught.value.where or "layer d" in caught.value.where


def test_a_factor_of_several_elements_is_refused(tmp_path: Path) -> None:
    text, blobs = row("BatchNorm", "", *STATISTICS[:2], ones(4))
    with pytest.raises(InputError, match="factor"):
        lower(load(*save(tmp_path, text, blobs)), bn_order="mean,variance,factor")


def test_very_many_images_and_classes_are_not_taken_apart(tmp_path: Path) -> None:
    text, blobs = row("DetectionOutput", "detection_output_param { num_classes: 70000 }", bottoms="loc conf prior")
    for change in (("dim: 1 dim: 8 }", "dim: 70000 dim: 8 }"), ("num_classes", "num_classes")):
        files = save(tmp_path, text.replace(*change, 1), {"c": blobs["c"], "bn": blobs["bn"]})
        assert [opaque.name for opaque in lower(load(*files)).opaque] == ["l"]


def test_a_fault_in_a_description_is_not_taken_for_one_of_the_net(tmp_path: Path) -> None:
    def broken(b: Builder) -> list[Value]:
        return [b.bottoms[7]]

    register("Broken", broken)
    try:
        with pytest.raises(IndexError):
            lower(load(*save(tmp_path, *row("Broken"))))
    finally:
        del ROWS["Broken"]
