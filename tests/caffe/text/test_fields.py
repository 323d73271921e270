"""Every field that a layer can have is read by its row, or on the list of what cannot matter, or makes it opaque."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.lowered import Lowered
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.caffe.text.fields import ENGINE, HARMLESS, harmless, resembling
from bnfold.caffe.text.typed import _is_repeated
from bnfold.errors import InputError

from ..build import Array, data, layer, noise, save
from ..test_broken_caffe import CONV, NETS, STATISTICS, Net, net, ones, row

FOUR = "pad_l: 0 pad_r: 1 pad_t: 0 pad_b: 1"
BASES: list[Net] = [
    *NETS,
    row("Convolution", "convolution_param { num_output: 6 kernel_size: 3 }", ones(6, 4, 3, 3), ones(6)),
    row("Convolution", CONV.replace("dilation: 1 group: 2", "bias_term: false"), ones(6, 4, 3, 3)),
    row("Convolution", "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 3 pad_h: 1 pad_w: 1 stride_h: 2 "
        "stride_w: 2 hole_h: 1 hole_w: 1 }", ones(6, 4, 3, 3), ones(6)),
    row("Pooling", f"pooling_param {{ kernel_size: 3 {FOUR} }}"),
    row("Pooling", "pooling_param { kernel_h: 3 kernel_w: 3 stride_h: 2 stride_w: 2 pad_h: 1 pad_w: 1 }"),
    row("InnerProduct", "inner_product_param { num_output: 5 bias_term: false }", noise("w", 5, 144)),
    row("BatchNorm", "batch_norm_param { eps: 0.001 }", *STATISTICS[:2], 2 * ones(1), *STATISTICS[2:]),
    row("BatchNorm", "batch_norm_param { bias_filler { } }", *STATISTICS[:2], 2 * ones(1), *STATISTICS[2:]),
    row("Dropout", "dropout_param { scale_train: false dropout_ratio: 0.4 }"),
    row("CuDNNBatchNorm", "cudnn_batch_norm_param { eps: 0.001 }", *STATISTICS),
    row("BN", "bn_param { eps: 0.001 }", *STATISTICS),
    row("BN", "phase: TRAIN bn_param { eps: 0.001 }", *STATISTICS),
    row("CuDNNBatchNorm", "phase: TRAIN batch_norm_param { eps: 0.001 }", *STATISTICS),
    row("CuDNNBatchNorm", "phase: TRAIN cudnn_batch_norm_param { eps: 0.001 }", *STATISTICS),
    row("Concat", "concat_param { }", bottoms="a x"),
    row("Slice", "slice_param { }", tops="b z"),
    row("Eltwise", "eltwise_param { }", bottoms="a x"),
    row("Interp", "interp_param { height: 4 width: 5 }"),
    row("Upsample", "upsample_param { scale_h: 2 scale_w: 2 }"),
    row("Upsample", "upsample_param { stride_h: 2 stride_w: 2 }"),
    row("Upsample", "upsample_param { upsample_h: 12 upsample_w: 12 }", bottoms="a m"),
    row("Upsample", "upsample_param { scale: 2 }", bottoms="a m"),
    row("PriorBox", "prior_box_param { min_size: 10 variance: 0.1 img_h: 24 img_w: 24 }", bottoms="a size"),
    row("PriorBox", "prior_box_param { min_size: 10 aspect_ratio: 2 step_h: 4 step_w: 4 }", bottoms="a size"),
    row("DetectionOutput", "detection_output_param { num_classes: 3 nms_param { } }", bottoms="loc conf prior"),
    row("Scale", "scale_param { }", ones(4), ones(4)),
    row("LSTM", "recurrent_param { num_output: 3 expose_hidden: true }", ones(12, 36), ones(12), ones(12, 3),
        bottoms="a flags h c0", tops="b z w"),
    net(layer("ImageData", "d", "", "d", "image_data_param { } transform_param { }") + layer("ReLU", "l", "a", "b")
        + layer("ReLU", "e", "d", "e")),
    net(layer("Data", "d", "", "d", "data_param { } transform_param { mean_value: 1 resize_param { height: 8 } }")
        + layer("ReLU", "l", "a", "b") + layer("ReLU", "e", "d", "e")),
    net(layer("DummyData", "d", "", "d", "dummy_data_param { num: 1 channels: 2 height: 3 width: 4 }")
        + layer("ReLU", "l", "a", "b")),
]  # fmt: skip
"""Nets of which one reads each field of the schema."""


# ------------------------------------------------------------------------------------------------- fields and values


def fields(message: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """The fields of the parameters of layers, by their names from the layer down."""
    for field in message.fields:
        inner = field.message_type
        if path or (inner is not None and field.name.endswith("_param")):
            if inner is None or inner.name == "Unread":
                yield (*path, field.name), field
            else:
                yield from fields(inner, (*path, field.name))


def values(field: FieldDescriptor) -> list[str]:
    if field.message_type is not None:
        return ["{ }"]
    if field.enum_type is not None:
        return [f": {name}" for name in field.enum_type.values_by_name]
    one = {
        FieldDescriptor.CPPTYPE_BOOL: "true false",
        FieldDescriptor.CPPTYPE_FLOAT: "0.5 2 -1 0 30",
        FieldDescriptor.CPPTYPE_STRING: '"gaussian"',
    }.get(field.cpp_type, "0 1 2 3 5 12 7")
    found = [f": {value}" for value in one.split()]
    return found + [f"{v} {field.name}{w}" for v in found for w in found[:3]] * _is_repeated(field)


def inserted(text: str, path: tuple[str, ...], value: str) -> str | None:
    """The text with a field in the last block of that path, in the place of what is there; None without the block."""
    start = text.rfind('top: "b"') if len(path) == 1 else 0
    for name in path[:-1]:
        start = text.rfind(f"{name} {{") if not start else text.find(f"{name} {{", start)
        if start < 0:
            return None
        start += len(name) + 2
    end = closing(text, start) if len(path) > 1 else start
    rest = re.sub(rf"\b{path[-1]}(: \S+| {{[^{{}}]*}})", "", text[start:end])
    return f"{text[:start]} {path[-1]}{value} {rest}{text[end:]}"


def closing(text: str, start: int) -> int:
    depth = 1
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return start + match.start()
    raise AssertionError("the block does not end")


# ---------------------------------------------------------------------------------------------------------- meaning


def meaning(folder: Path, text: str, blobs: dict[str, list[Array]]) -> object:
    """All that lowering makes of a net, or why it does not."""
    loaded = load(*save(folder, text, {name: arrays for name, arrays in blobs.items() if arrays}))
    try:
        return told(lower(loaded))
    except InputError as error:
        return error.what


def told(lowered: Lowered) -> object:
    graph = lowered.graph
    nodes = [(n.op, sorted(n.attributes.items(), key=str), list(map(constant, n.inputs)), n.fixed) for n in graph.nodes]
    shapes = [value.shape for value in graph.inputs] + [v.shape for node in graph.nodes for v in node.outputs]
    wires = [[value.name if value is not None else "" for value in node.inputs] for node in graph.nodes]
    said = [*(o.reason for o in lowered.opaque.values()), *(o.reason for o in lowered.sources), *lowered.notices]
    notes = [*graph.notes.values(), *graph.held.values()]
    return str((nodes, shapes, wires if not nodes else len(wires), said, notes))


def constant(value: Any) -> object:
    return value.tensor.load().tolist() if value is not None and value.tensor is not None else None


# ------------------------------------------------------------------------------------------------------------ tests

FIELDS = [(".".join(path), path, field) for path, field in fields(pb.LayerParameter.DESCRIPTOR)]


@pytest.mark.parametrize(("path", "field"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_every_field_of_the_schema_is_read(path: tuple[str, ...], field: FieldDescriptor, tmp_path: Path) -> None:
    for text, blobs in BASES:
        changed = [inserted(text, path, value) for value in values(field)]
        before = meaning(tmp_path, text, blobs) if any(changed) else None
        if any(after is not None and meaning(tmp_path, after, blobs) != before for after in changed):
            return
    pytest.fail("no net changes with this field")


ANYTHING = [": 7", ": -0.5", ": SOMETHING", ': "text"', "{ whatever: 1 inner { x: SOMETHING } }"]
BLOCKS = {  # message -> a layer's field of that type
    "EngineParameter": "sigmoid_param",
    "FillerParameter": "dummy_data_param.data_filler",
    "ResizeParameter": "transform_param.resize_param",
    **{
        field.message_type.name: field.name
        for field in pb.LayerParameter.DESCRIPTOR.fields
        if field.message_type is not None and field.name.endswith("_param") and field.name != "tanh_param"
    },
}
OF_LAYERS = [
    (m, name) for m in sorted(HARMLESS) if m not in ("NetParameter", "ParamSpec") for name in sorted(HARMLESS[m])
]


@pytest.mark.parametrize(("message", "name"), OF_LAYERS, ids=[f"{m}.{name}" for m, name in OF_LAYERS])
def test_any_value_of_a_harmless_field_changes_nothing(message: str, name: str, tmp_path: Path) -> None:
    path = () if message == "LayerParameter" else tuple(BLOCKS[message].split("."))
    bases = [*BASES, row("Sigmoid", "sigmoid_param { }"), row("TanH", "tanh_param { }")]
    for text, blobs in bases:
        changed = [inserted(text, (*path, name), value) for value in ANYTHING]
        if None not in changed:
            before = meaning(tmp_path, text, blobs)
            assert all(meaning(tmp_path, after, blobs) == before for after in changed if after is not None)
            return
    pytest.fail("no net has such a block")


def test_harmless_fields_of_the_net_and_of_specs(tmp_path: Path) -> None:
    text, blobs = BASES[0]
    before = meaning(tmp_path, text, blobs)
    for value in ANYTHING:
        for name in harmless("NetParameter"):
            assert meaning(tmp_path, f"{name}{value}\n{text}", blobs) == before
        for name in HARMLESS["ParamSpec"]:
            assert meaning(tmp_path, str(inserted(text, ("param",), f" {{ {name}{value} }}")), blobs) == before


def test_no_field_is_both_read_and_harmless() -> None:
    found = pb.DESCRIPTOR.message_types_by_name
    for message in found:
        assert harmless(message).isdisjoint(found[message].fields_by_name), message
    assert set(HARMLESS) <= set(found)


@pytest.mark.parametrize(
    "param", ["eltwise", "concat", "dropout", "scale", "pooling", "convolution", "sigmoid", "batch_norm"]
)
def test_the_engine_of_any_layer_changes_nothing(param: str, tmp_path: Path) -> None:
    bases = [base for base in [*BASES, row("Sigmoid", "sigmoid_param { }")] if f"{param}_param {{" in base[0]]
    for text, blobs in bases[:3]:
        before = meaning(tmp_path, text, blobs)
        for value in ANYTHING:
            assert meaning(tmp_path, str(inserted(text, (f"{param}_param", *ENGINE), value)), blobs) == before


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("odd", "odd: 1"),
        ("convolution_param.odd", "convolution_param { odd: 1 }"),
        ("param.odd", "param { odd: 1 }"),
        ("odd_param", "odd_param { x: 1 }"),
    ],
)
def test_any_other_field_makes_its_layer_opaque(path: str, fields: str, tmp_path: Path) -> None:
    files = save(tmp_path, data() + layer("Convolution", "c", "data", "c", fields), {"c": [ones(4, 4, 1, 1), ones(4)]})
    (opaque,) = lower(load(*files)).opaque.values()
    assert (opaque.layer, opaque.type, opaque.reason) == (
        "c", "Convolution", f"bnfold does not know the field `{path}`"
    )  # fmt: skip
    text = files.prototxt.read_text().splitlines()[1]
    assert opaque.where == f"{files.prototxt}:2:{text.index('odd') + 1}"


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("epsilon", "eps momentum", "eps"),
        ("use_global_stat", "use_global_stats eps", "use_global_stats"),
        ("pads", "pad pad_h", "pad"),
        ("kernal_size", "kernel_size", "kernel_size"),
        ("scale_params", "scale_param softmax_param", "scale_param"),
        ("batchnorm_param", "batch_norm_param", "batch_norm_param"),
        ("multibox_loss_param", "loss_param clip_param", ""),
        ("pixelshuffler", "shape axis num_axes", ""),
        ("relu6", "negative_slope", ""),
        ("k", "alpha beta", ""),
        ("top", "tops pad", "tops"),
        ("eps_scale", "eps", ""),
        ("kernel_d", "kernel_h kernel_w", ""),
        ("dilation_h", "dilation", ""),
        ("pad_type", "pad_t pad_h", ""),
    ],
)
def test_what_resembles_a_known_field(word: str, known: str, meant: str) -> None:
    assert resembling(word, frozenset(known.split())) == meant
