"""How layers are lowered: names, memory, what is refused or left opaque, where a net is cut. Formulas: test_rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.caffe.layers.table import ROWS, register
from bnfold.caffe.lowered import Lowered
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import InputError

from ..build import Array, Feeds, noise, run, save


def net(*layers: str, **inputs: tuple[int, ...]) -> str:
    shapes = [f'input: "{name}" input_shape {{ {" ".join(f"dim: {e}" for e in s)} }}' for name, s in inputs.items()]
    return "\n".join([*shapes, *layers])


def layer(kind: str, param: str = "", bottoms: str = "x", tops: str = "y", name: str = "l") -> str:
    ends = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(ends)} {param} }}'


def close(found: Array, wanted: Array, tolerance: float = 2e-6) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, float(np.abs(wanted).max(initial=0))))


def compute(folder: Path, text: str, feeds: Feeds, *blobs: Array, **how: Any) -> Array:
    """The output y of a net whose layer `l` has these blobs."""
    return run(save(folder, text, {"l": blobs} if blobs else {"none": [np.zeros(1)]}), feeds, **how)["y"]


def lowered(folder: Path, text: str, weights: dict[str, list[Array]] | None = None, **how: Any) -> Lowered:
    return lower(load(*save(folder, text, weights or {"none": [np.zeros(1)]})), **how)


def test_equal_maxima_rank_from_the_end(tmp_path: Path) -> None:
    x = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)
    text = net(layer("ArgMax", "argmax_param { top_k: 2 out_max_val: true }"), x=x.shape)
    expected = np.array([[[2, 1], [3, 3]], [[3, 2], [2, 2]]], np.float32)
    close(compute(tmp_path, text, {"x": x}), expected)


# --------------------------------------------------------------------------------------- names, memory, opaque layers


def test_versions_of_a_blob_and_the_way_back_to_them(tmp_path: Path) -> None:
    chain = layer("ReLU", "", "x", "a", "r") + layer("TanH", "", "a", "a", "t")
    text = net(chain, layer("AbsVal", "", "a"), x=(2, 3))
    low = lowered(tmp_path, text)
    first, second = low.layers[1].tops[0], low.layers[2].tops[0]
    assert (second.name, low.layers[3].bottoms) == ("a", [second])
    assert first.name not in {"a", "x", "y"}
    assert [node.op for item in low.layers for node in item.nodes] == ["Relu", "Tanh", "Abs"]
    assert [value.name for value in low.graph.outputs] == ["y"]
    assert low.graph.nodes[0].origin is low.layers[1].layer


def test_an_input_keeps_its_name_and_an_unread_one_is_an_output(tmp_path: Path) -> None:
    low = lowered(tmp_path, net(layer("ReLU", "", "x", "x", "r"), layer("TanH"), x=(2, 3), label=(2,)))
    assert [value.name for value in low.graph.inputs] == ["x", "label"]
    assert [value.name for value in low.graph.outputs] == ["label", "y"]
    assert low.layers[1].tops[0].name not in {"x", "y"}


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        ([noise("w", 4, 3, 3, 3)], "has 1 blobs"),
        ([noise("w", 4, 3, 3, 2), noise("b", 4)], "(4, 3, 3, 2)"),
        ([noise("w", 4, 3, 3, 3), noise("b", 1, 1, 1, 4)], "(1, 1, 1, 4)"),
    ],
)
def test_blobs_must_have_the_shape_that_the_layer_wants(blobs: list[Array], reason: str, tmp_path: Path) -> None:
    text = net(layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }"), x=(1, 3, 5, 5))
    with pytest.raises(InputError) as caught:
        lowered(tmp_path, text, {"l": blobs})
    assert reason in str(caught.value)


def test_folding_goes_on_behind_an_unknown_layer(tmp_path: Path) -> None:
    conv = "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"
    text = net(
        layer("Mystery", "mystery_param { a: 1 }", "x", "m", "m"), layer("BatchNorm", "", "m", "m", "bn0"),
        layer("Scale", "scale_param { bias_term: true }", "m", "m", "s"), layer("Convolution", conv, "m", "c", "c"),
        layer("BatchNorm", "", "c", "c", "bn"), layer("ReLU", "", "c"), x=(1, 3, 9, 9),
    )  # fmt: skip
    three, four = [noise("m", 3), noise("v", 3) ** 2, np.ones(1)], [noise("m", 4), noise("v", 4) ** 2, np.ones(1)]
    blobs = {"bn0": three, "s": [noise("g", 3), noise("b", 3)], "c": [noise("w", 4, 3, 3, 3)], "bn": four}
    low = lowered(tmp_path, text, blobs)
    assert [node.op for node in low.graph.nodes] == ["caffe.Mystery", *["BatchNormalization"] * 3, "Conv",
                                                     "BatchNormalization", "Relu"]  # fmt: skip
    assert low.layers[4].tops[0].shape == (None, 4, None, None)
    assert [layer.name for layer in low.opaque] == ["m"]


def test_training_layers_are_cut_at_their_scores(tmp_path: Path) -> None:
    text = "\n".join(
        [
            layer("Data", "data_param { batch_size: 4 } transform_param { crop_size: 8 mean_value: 1 mean_value: 2 "
                          "mean_value: 3 }", "", "data label", "d"),
            layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", "data", "p", "p"),
            layer("SoftmaxWithLoss", "", "p label", "loss", "loss"), layer("Accuracy", "", "p label", "acc", "acc"),
        ]
    )  # fmt: skip
    low = lowered(tmp_path, text)
    assert [(value.name, value.shape) for value in low.graph.inputs] == [("data", (1, 3, 8, 8))]
    assert [value.name for value in low.graph.outputs] == ["p"]
    assert [len(item.tops) for item in low.layers] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        ("resize_param { height: 8 width: 6 interp_mode: LINEAR }", (8, 6)),
        ("resize_param { height: 8 width: 6 resize_mode: FIT_SMALL_SIZE }", (None, None)),
        ("resize_param { height: 8 width: 6 } crop_h: 4 crop_w: 5", (4, 5)),
        ("resize_param { height: 8 width: 6 } crop_size: 4 ", (4, 4)),
    ],
)
def test_the_size_that_images_are_made(transform: str, size: tuple[int | None, ...], tmp_path: Path) -> None:
    text = layer("AnnotatedData", f"transform_param {{ force_color: true {transform} }}", "", "data label", "d")
    low = lowered(tmp_path, text + layer("ReLU", "", "data", "y", "r"))
    assert [value.shape for value in low.graph.inputs if value.name == "data"] == [(1, 3, *size)]


def test_a_type_of_ones_own(tmp_path: Path) -> None:
    register("MyMish", lambda b: [b.node("Mul", b.x, b.node("Tanh", b.node("Softplus", b.x)))], in_place=True)
    try:
        x = noise("x", 2, 3)
        y = compute(tmp_path, net(layer("ReLU", "", "x", "y", "r"), layer("MyMish", "", "y"), x=x.shape), {"x": x})
        close(y, x.clip(0) * np.tanh(np.log1p(np.exp(x.clip(0)))))
    finally:
        del ROWS["MyMish"]


def test_constants_that_are_stored_blobs_can_be_told_from_others(tmp_path: Path) -> None:
    text = net(layer("Scale", "", "x", "a", "s"), layer("Power", "power_param { scale: 2 }", "a"), x=(2, 3))
    low = lowered(tmp_path, text, {"s": [noise("g", 3)]})
    keys = [node.inputs[1].tensor.key for node in low.graph.nodes]  # type: ignore[union-attr]
    assert keys[0] == ("blob", low.layers[1].layer.blobs[0].field.start)
    assert keys[1][0] == "made"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        (layer("Power", "power_param { scale: 2 }"), [False]),
        (layer("Power", "power_param { scale: 2 power: 2 }"), [True, False]),
        (layer("Eltwise", "eltwise_param { coeff: 2 coeff: 1 }", "x x"), [True, True]),
        (layer("Exp", "exp_param { scale: 2 }"), [True, False]),
    ],
)
def test_parts_of_a_layer_are_fixed(text: str, fixed: list[bool], tmp_path: Path) -> None:
    assert [node.fixed for node in lowered(tmp_path, net(text, x=(2, 3))).graph.nodes] == fixed


def test_a_convolution_tells_the_channels_of_its_input(tmp_path: Path) -> None:
    text = layer("Data", "data_param { batch_size: 9 }", "", "x", "d") + layer(
        "Convolution", "convolution_param { num_output: 3 kernel_size: 1 group: 3 bias_term: false }"
    )
    low = lowered(tmp_path, text, {"l": [noise("w", 3, 2, 1, 1)]})
    assert [value.shape for value in low.graph.inputs] == [(1, 6, None, None)]
