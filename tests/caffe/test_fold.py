"""Small Caffe nets folded from files to files: the text that is written, the names of blobs, weights, refusals."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnfold import protobuf
from bnfold.errors import InputError, StrictError, UsageError
from bnfold.pipeline import explain

from .build import (
    Files,
    batch_norm,
    bn,
    check,
    conv,
    data,
    fold,
    he,
    layer,
    run,
    save,
    scale,
    scaled,
    stored,
    stored_v1,
)
from .weigh import weighed


def relu(name: str, bottom: str, top: str) -> str:
    return layer("ReLU", name, bottom, top)


def difference(before: str, after: str) -> list[str]:
    """The lines that a diff shows, without its headers."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


# ------------------------------------------------------------------------------------------------------------ the text

PLAIN = """\
name: "plain"  # a net
input: "data"
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }

# the first stage
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 decay_mult: 1 }
  convolution_param {
    num_output: 4
    bias_term: false   # BN follows
    kernel_size: 3
    force_nd_im2col: 0x1
  }
}

# normalisation, gone after a fold with its own comments

layer {
  bottom: "conv1"
  top: "bn1"
  name: "bn1"  # of conv1
  type: "BatchNorm"
  param { lr_mult: 0 }
  param { lr_mult: 0 }
  param { lr_mult: 0 }
}
layer {
  name: "scale1"
  type: "Scale"
  bottom: "bn1"
  top: "scale1"
  scale_param { bias_term: true }
}
layer {
  name: "relu1"
  type: "ReLU"
  bottom: "scale1"
  top: "scale1"
}
layer {
  name: "conv2"
  type: "Convolution"
  bottom: "scale1"
  top: "conv2"
  convolution_param { num_output: 2 kernel_size: 1 }
}
"""

PLAIN_DIFF = """\
-  top: "conv1"
+  top: "scale1"
-    bias_term: false   # BN follows
+    bias_term: true   # BN follows
-layer {
-  bottom: "conv1"
-  top: "bn1"
-  name: "bn1"  # of conv1
-  type: "BatchNorm"
-  param { lr_mult: 0 }
-  param { lr_mult: 0 }
-  param { lr_mult: 0 }
-}
-layer {
-  name: "scale1"
-  type: "Scale"
-  bottom: "bn1"
-  top: "scale1"
-  scale_param { bias_term: true }
-}
"""


GONE = slice(PLAIN.index('layer {\n  bottom: "conv1"'), PLAIN.index('layer {\n  name: "relu1"'))
PLAIN_AFTER = (
    (PLAIN[: GONE.start] + PLAIN[GONE.stop :]).replace('top: "conv1"', 'top: "scale1"').replace("false", "true")
)


def test_a_diff_shows_the_layers_that_go_bias_term_and_the_new_top(tmp_path: Path) -> None:
    folded = check(weighed(tmp_path, PLAIN))
    assert difference(PLAIN, folded.text) == PLAIN_DIFF.splitlines()
    assert folded.text == PLAIN_AFTER


ONE_LINE = (
    'layer{name:"c" type:"Convolution" bottom:"data" top:"c" '
    "convolution_param{num_output:2 kernel_size:1 bias_term:false}}"
    'layer{name:"b" type:"BatchNorm" bottom:"c" top:"b"}layer{name:"r" type:"ReLU" bottom:"b" top:"b"}'
)
ANGLES = """\
layer < name: 'c', type: 'Convolution', bottom: 'data'; top: 'c'
  convolution_param: < num_output: 2; kernel_size: [1, 1]; bias_term: False; > >
layer: < name: 'b' type: "Batch" "Norm" bottom: 'c' top: 'b' >
layer: < name: 'r' type: 'ReLU' bottom: ['b'] top: ['b'] >
"""
LISTS = """\
layer: [
  { name: "c" type: "Convolution" bottom: "data" top: "c"
    convolution_param { num_output: 2 kernel_size: 1 bias_term: 0 } },
  { name: "b" type: "BatchNorm" bottom: "c" top: "b" },
  { name: "r" type: "ReLU" bottom: "b" top: "b" }
]
"""
INPUT = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4\n'
STYLES = {
    "one line": (
        ONE_LINE,
        ONE_LINE.replace('top:"c"', 'top:"b"')
        .replace("bias_term:false", "bias_term:true")
        .replace('layer{name:"b" type:"BatchNorm" bottom:"c" top:"b"}', ""),
    ),
    "angles": (
        ANGLES,
        ANGLES.replace("top: 'c'", "top: 'b'")
        .replace("False", "true")
        .replace("layer: < name: 'b' type: \"Batch\" \"Norm\" bottom: 'c' top: 'b' >\n", ""),
    ),
    "lists": (
        LISTS,
        LISTS.replace('top: "c"', 'top: "b"')
        .replace("bias_term: 0", "bias_term: true")
        .replace('  { name: "b" type: "BatchNorm" bottom: "c" top: "b" },\n', ""),
    ),
    "line ends of Windows": (PLAIN.replace("\n", "\r\n"), PLAIN_AFTER.replace("\n", "\r\n")),
}


@pytest.mark.parametrize("style", STYLES)
def test_styles_of_text(tmp_path: Path, style: str) -> None:
    before, after = STYLES[style]
    head = "" if "input" in before else INPUT
    assert check(weighed(tmp_path, head + before)).text == head + after


def test_bytes_that_are_not_utf8_and_a_byte_order_mark_survive(tmp_path: Path) -> None:
    text = ("\ufeff# caf".encode() + b"\xe9\n") + PLAIN.encode()
    files = weighed(tmp_path, PLAIN)
    files.prototxt.write_bytes(text)
    folded = fold(files).files.prototxt.read_bytes()
    assert folded.startswith("\ufeff# caf".encode() + b'\xe9\nname: "plain"  # a net\n')


def test_vendor_fields_and_layers_of_unknown_types_survive(tmp_path: Path) -> None:
    mystery = layer("Mystery", "m", "c", "m", "mystery_param { level: 3 inner < a: [1, 2] > }")
    vendor = layer("Pooling", "p", "m", "p", "pooling_param { global_pooling: true } quantize_param { bits: 8 }")
    files = weighed(tmp_path, data() + conv("c", "data", "c") + bn("b", "c", "c") + mystery + vendor)
    folded = check_unconverted(files, "m", "p")
    assert folded == data() + conv("c", "data", "c") + mystery + vendor


def check_unconverted(files: Files, *layers: str) -> str:
    """Fold a net with `layers` that nothing can run: the text, once it is proven as far as they reach."""
    folded = fold(files, verify=True)
    verification = folded.result.verification
    assert verification is not None
    assert verification.left_out == list(layers)
    assert verification.uncovered == 0
    assert len(verification.inner) == 1
    return folded.text


# ------------------------------------------------------------------------------------------------ names of the blobs

NAMES = {
    "all in place": (
        conv("c", "data", "x") + bn("b", "x", "x") + scaled("s", "x", "x") + relu("r", "x", "x"),
        conv("c", "data", "x") + relu("r", "x", "x"),
    ),
    "none in place": (
        conv("c", "data", "x") + bn("b", "x", "y") + scaled("s", "y", "z") + relu("r", "z", "o"),
        conv("c", "data", "z") + relu("r", "z", "o"),
    ),
    "a net output": (
        conv("c", "data", "x") + bn("b", "x", "y") + scaled("s", "y", "out/put"),
        conv("c", "data", "out/put"),
    ),
    "several readers behind": (
        conv("c", "data", "x") + bn("b", "x", "y") + relu("r", "y", "o") + layer("TanH", "t", "y", "u"),
        conv("c", "data", "y") + relu("r", "y", "o") + layer("TanH", "t", "y", "u"),
    ),
    "a layer between takes over the name": (
        conv("c", "data", "x") + layer("Dropout", "d", "x", "x") + bn("b", "x", "y") + relu("r", "y", "y"),
        conv("c", "data", "x") + layer("Dropout", "d", "x", "y") + relu("r", "y", "y"),
    ),
    "downwards the reader takes another bottom": (
        relu("r", "data", "x") + bn("b", "x", "y") + conv("c", "y", "o"),
        relu("r", "data", "x") + conv("c", "x", "o"),
    ),
    "an input keeps its name": (
        bn("b", "data", "y") + scaled("s", "y", "y") + conv("c", "y", "o"),
        conv("c", "data", "o"),
    ),
    "in place on an input": (
        bn("b", "data", "data") + conv("c", "data", "o"),
        conv("c", "data", "o"),
    ),
    "names that other layers had": (
        conv("c", "data", "a") + bn("b", "a", "b") + scaled("s", "b", "c") + relu("r", "c", "c")
        + conv("c2", "c", "d") + bn("b2", "d", "d") + scaled("s2", "d", "e"),
        conv("c", "data", "c") + relu("r", "c", "c") + conv("c2", "c", "e"),
    ),
    "the product in place": (
        conv("c", "data", "x") + conv("d", "data", "y") + bn("b", "x", "z")
        + layer("Eltwise", "e", "z y", "z", "eltwise_param { operation: PROD }"),
        conv("c", "data", "z") + conv("d", "data", "y")
        + layer("Eltwise", "e", "z y", "z", "eltwise_param { operation: PROD }"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names(tmp_path: Path, case: str) -> None:
    before, after = NAMES[case]
    assert check(weighed(tmp_path, data() + before)).text == data() + after


ONES = {"s": [np.ones(4, np.float32)]}
NOTHING = scaled("s", "x", "s", "")


@pytest.mark.parametrize("late", [True, False])
def test_a_layer_stops_working_in_place_where_another_one_reads_its_bottom_now(tmp_path: Path, late: bool) -> None:
    before, after = ("", layer("Sigmoid", "g", "x", "g")) if late else (layer("Sigmoid", "g", "x", "g"), "")
    net = data() + conv("c", "data", "x") + before + NOTHING + relu("r", "s", "s") + after
    assert check(weighed(tmp_path, net, **ONES)).text == net.replace(NOTHING, "").replace(
        relu("r", "s", "s"), relu("r", "x", "s")
    )


SHARE = layer("Split", "split", "x", "a b")
FLAT = "reshape_param { shape { dim: 0 dim: 4 dim: 36 dim: 1 } }"
MEMORY = {
    # a reader moves behind the layer that overwrites what it reads now
    "a fold downwards past a ReLU": (
        relu("q", "data", "x") + SHARE + bn("n", "a", "n") + relu("r", "b", "b") + conv("c", "n", "o")
        + layer("TanH", "t", "b", "t"),
        {},
    ),
    "what stays stands behind a ReLU": (
        relu("q", "data", "x") + SHARE + bn("n", "a", "n") + relu("r", "b", "b") + scaled("s", "n", "n")
        + layer("TanH", "t", "n", "t") + layer("TanH", "u", "b", "u"),
        {},
    ),
    # the layer that made a copy goes, so that an overwritten blob shows the memory of one that is read later
    "Flatten behind the source": (
        layer("Sigmoid", "q", "data", "x") + scaled("s", "x", "y", "") + layer("Flatten", "f", "y", "f")
        + layer("Dropout", "d", "f", "f") + relu("r", "f", "f")
        + layer("InnerProduct", "ip", "f", "o", "inner_product_param { num_output: 3 }") + layer("TanH", "t", "x", "t"),
        {"s": [np.array([1, 2, 0.5, 3], np.float32)]},
    ),
    "Reshape behind the source": (
        layer("Sigmoid", "q", "data", "x") + scaled("s", "x", "y", "") + layer("Reshape", "f", "y", "f", FLAT)
        + relu("r", "f", "f") + conv("c", "f", "o") + layer("TanH", "t", "x", "t"),
        {"s": [np.array([1, 2, 0.5, 3], np.float32)]},
    ),
    "Flatten and Reshape": (
        conv("q", "data", "x") + layer("Flatten", "f", "x", "f") + scaled("s", "f", "y", "num_axes: 0")
        + layer("Reshape", "h", "y", "h", "reshape_param { shape { dim: 0 dim: 4 dim: 36 } }") + relu("r", "h", "h")
        + layer("TanH", "t", "x", "t"),
        {"s": [np.ones((), np.float32)]},
    ),
    "an input": (
        scaled("s", "data", "y", "") + layer("Flatten", "f", "y", "f") + layer("TanH", "r", "f", "f")
        + conv("t", "data", "t"),
        {"s": [np.ones(4, np.float32)]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMORY)
def test_no_layer_overwrites_what_another_one_reads(tmp_path: Path, case: str) -> None:
    """Split, Flatten and Reshape show their bottom's memory; Caffe computes these nets as `check` does."""
    net, given = MEMORY[case]
    folded = check(weighed(tmp_path, data() + net, **given))
    assert len(folded.types) < len(net.splitlines()) + 1


def test_shared_memory_alone_changes_no_name(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + layer("Concat", "j", "x", "j") + "{}" + relu("r", "y", "y")
    folded = check(weighed(tmp_path, net.replace("{}", bn("b", "j", "y"))))
    assert folded.text == net.replace("{}", "").replace('top: "j"', 'top: "y"')


def test_keep(tmp_path: Path) -> None:
    tanh = layer("TanH", "r", "y", "y")
    net = data() + conv("c", "data", "x") + bn("b", "x", "y") + tanh + conv("d", "y", "z") + bn("e", "z", "z")
    folded = check(weighed(tmp_path, net), keep=("x",))
    assert folded.types == ["Input", "Convolution", "Scale", "TanH", "Convolution"]
    assert check(weighed(tmp_path, net), keep=("z",)).types == ["Input", "Convolution", "TanH", "Convolution"]
    with pytest.raises(UsageError, match="no blob 'w' to keep"):
        fold(weighed(tmp_path, net), keep=("w",))


# ------------------------------------------------------------------------------------------------- phases and readers

TWINS = (
    data(1, 3, 8, 8)
    + conv("c", "data", "c")
    + layer("BatchNorm", "b", "c", "b", "include { phase: TRAIN } batch_norm_param { use_global_stats: false }")
    + layer("BatchNorm", "b", "c", "b", "include { phase: TEST } batch_norm_param { use_global_stats: true }")
    + layer("Dropout", "only_train", "b", "b", "include { phase: TRAIN }")
    + "@"
    + layer("SoftmaxWithLoss", "loss", "o data", "loss", "include { phase: TRAIN }")
)


def test_the_layer_of_training_goes_with_its_twin(tmp_path: Path) -> None:
    net = TWINS.replace("@", relu("r", "b", "o"))
    lines = net.splitlines(keepends=True)
    assert check(weighed(tmp_path, net)).text == "".join(lines[:2] + lines[4:]).replace('top: "c"', 'top: "b"')


def test_the_twin_goes_when_the_layer_becomes_another_one(tmp_path: Path) -> None:
    net = TWINS.replace("@", relu("r", "b", "o")).replace(conv("c", "data", "c"), relu("c", "data", "c"))
    folded = check(weighed(tmp_path, net))
    assert [entry.message().string("type") for entry in folded.net.text.all("layer")] == [
        "Input", "ReLU", "Scale", "Dropout", "ReLU", "SoftmaxWithLoss"
    ]  # fmt: skip
    assert "include { phase: TEST }" in folded.text


def test_statistics_of_the_batch_stay_in_training(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "b")
    files = weighed(tmp_path, net)
    assert fold(files, phase="TRAIN").text == net
    assert check(files).types == ["Input", "Convolution"]


def test_what_a_loss_reads_stays(tmp_path: Path) -> None:
    loss = layer("EuclideanLoss", "end", "c data", "loss")
    folded = fold(weighed(tmp_path, data() + conv("c", "data", "c") + bn("b", "c", "b") + loss))
    assert folded.types[1:3] == ["Convolution", "Scale"]
    (decision,) = folded.result.plans[0][1].decisions
    assert "'end'" in decision.reasons[0].sentence


SILENT = {
    "it reads the folded blob": (
        bn("b", "c", "b") + relu("r", "b", "o") + layer("Silence", "end", "c", ""),
        relu("r", "b", "o") + layer("Silence", "end", "b", ""),
    ),
    "it goes where it would hide an output": (bn("b", "c", "b") + layer("Silence", "end", "c", ""), ""),
    "it hides what else it hid": (
        conv("d", "data", "d") + bn("b", "c", "b") + layer("Silence", "end", "c d", ""),
        conv("d", "data", "d") + 'layer { name: "end" type: "Silence" bottom: "d" }\n',
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_silence_binds_nothing(tmp_path: Path, case: str) -> None:
    before, after = SILENT[case]
    folded = fold(weighed(tmp_path, data() + conv("c", "data", "c") + before))
    assert folded.text == data() + conv("c", "data", "b") + after


def test_stages_and_levels(tmp_path: Path) -> None:
    rule = 'include { stage: "deploy" min_level: 2 }'
    net = data() + conv("c", "data", "c") + layer("BatchNorm", "b", "c", "c", rule) + relu("r", "c", "o")
    weights = {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "b": batch_norm(4)}
    assert fold(save(tmp_path, net, weights)).text == net
    assert fold(save(tmp_path, net, weights), stages=("deploy",), level=2).text == net.replace(
        layer("BatchNorm", "b", "c", "c", rule), ""
    )


# -------------------------------------------------------------------------------------------------- what stays in place

STAYS = {
    "BatchNorm and Scale become one Scale": (
        relu("q", "data", "x") + bn("n", "x", "n") + scaled("s", "n", "n") + relu("r", "n", "n"),
        relu("q", "data", "x") + scaled("s", "x", "n") + relu("r", "n", "n"),
        ["s"],
    ),
    "BatchNorm alone becomes a Scale": (
        relu("q", "data", "x") + bn("n", "x", "n", "eps: 0.001") + relu("r", "n", "n"),
        relu("q", "data", "x") + scaled("n", "x", "n") + relu("r", "n", "n"),
        ["n"],
    ),
    "Scale without a bias gets one": (
        relu("q", "data", "x") + bn("n", "x", "n") + scaled("s", "n", "n", "") + relu("r", "n", "n"),
        relu("q", "data", "x") + scaled("s", "x", "n") + relu("r", "n", "n"),
        ["s"],
    ),
    "Scale and Bias": (
        relu("q", "data", "x") + scaled("s", "x", "s", "axis: 1") + layer("Bias", "b", "s", "b") + relu("r", "b", "b"),
        relu("q", "data", "x") + scaled("s", "x", "b", "axis: 1 bias_term: true") + relu("r", "b", "b"),
        ["s"],
    ),
    "two Powers": (
        relu("q", "data", "x") + layer("Power", "p", "x", "p", "power_param { scale: 2 shift: 1 }")
        + layer("Power", "o", "p", "o", "power_param { scale: -0.5 }") + relu("r", "o", "u") + conv("c", "u", "v"),
        relu("q", "data", "x") + layer("Power", "o", "x", "o", "power_param { scale: -1 shift: -0.5 }")
        + relu("r", "o", "u") + conv("c", "u", "v"),
        ["c"],
    ),
    "a Power and a Bias become one": (
        relu("q", "data", "x") + layer("Power", "p", "x", "p", "power_param { shift: 1 }")
        + layer("Bias", "b", "p", "b") + relu("r", "b", "u"),
        relu("q", "data", "x") + layer("Bias", "b", "x", "b") + relu("r", "b", "u"),
        ["b"],
    ),
    "a Scale of the whole image": (
        relu("q", "data", "x") + scaled("s", "x", "s", "axis: 1 num_axes: -1 bias_term: true")
        + layer("Bias", "b", "s", "t") + relu("r", "t", "u"),
        relu("q", "data", "x") + scaled("s", "x", "t", "axis: 1 num_axes: -1 bias_term: true") + relu("r", "t", "u"),
        ["s"],
    ),
    "a scalar and channels": (
        relu("q", "data", "x") + scaled("s", "x", "s", "num_axes: 0") + scaled("t", "s", "t") + relu("r", "t", "u"),
        relu("q", "data", "x") + scaled("t", "x", "t") + relu("r", "t", "u"),
        ["t"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_what_stays(tmp_path: Path, case: str) -> None:
    before, after, names = STAYS[case]
    bias = {"b": [he(4, 1)[:, 0]]} if "Bias" in before else {}
    folded = check(weighed(tmp_path, data() + before, **bias))
    assert folded.text == data() + after
    assert [name for name, _ in folded.stored] == names


def test_a_blob_may_have_an_empty_name(tmp_path: Path) -> None:
    join = 'layer { name: "" type: "Concat" bottom: "a" bottom: "b" top: "" }\n'
    norm = 'layer { name: "n" type: "BatchNorm" bottom: "" top: "n" }\n'
    net = data() + conv("a", "data", "a") + conv("b", "data", "b") + join + norm + relu("r", "n", "n")
    folded = check(weighed(tmp_path, net))
    assert folded.text == net.replace(norm, "").replace('top: "" }', 'top: "n" }')


def test_a_net_may_lose_all_its_weights(tmp_path: Path) -> None:
    net = data() + relu("q", "data", "x") + scaled("s", "x", "y") + relu("r", "y", "z")
    ones = {"s": [np.ones(4, np.float32), np.zeros(4, np.float32)]}
    assert check(save(tmp_path, net, [stored("s", *ones["s"])])).types == ["Input", "ReLU", "ReLU"]
    nameless = save(tmp_path, net, [stored("s", *ones["s"])])
    nameless.caffemodel.write_bytes(stored("s", *ones["s"]))
    assert check(nameless).stored == []


def test_a_caffemodel_without_layers_is_not_that_of_a_net_that_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no weights"):
        explain(save(tmp_path, data() + conv("c", "data", "c"), []))


LARGER = {
    "a Bias for each element of an image": scaled("s", "x", "s", "axis: 1 num_axes: -1") + layer("Bias", "b", "s", "t"),
    "a multiplier for each channel": layer("Power", "s", "x", "s", "power_param { scale: 2 }")
    + layer("Bias", "b", "s", "t"),
}


@pytest.mark.parametrize("case", LARGER)
def test_layers_do_not_merge_into_a_larger_one(tmp_path: Path, case: str) -> None:
    net = data(1, 99, 2, 2) + relu("q", "data", "x") + LARGER[case] + relu("r", "t", "u")
    assert check(weighed(tmp_path, net, b=[he(99, 1)[:, 0]])).text == net


def test_two_scales_along_axis_2_become_one(tmp_path: Path) -> None:
    first, second = scaled("s", "x", "s", "axis: 2 bias_term: true"), scaled("t", "s", "t", "axis: -2")
    net = data() + conv("q", "data", "q") + relu("r", "q", "x") + first + second + relu("u", "t", "u")
    folded = check(weighed(tmp_path, net))
    assert folded.types == ["Input", "Convolution", "ReLU", "Scale", "ReLU"]
    assert "axis: 2" in folded.text
    assert [blob.shape for name, blobs in folded.stored if name != "q" for blob in blobs] == [(6,), (6,)]


def test_only_the_multiplier_moves_where_padding_is_read(tmp_path: Path) -> None:
    net = data() + relu("q", "data", "x") + "{}" + conv("c", "y", "o", kernel=3, more="pad: 1")
    folded = check(weighed(tmp_path, net.replace("{}", bn("n", "x", "n") + scaled("s", "n", "y"))))
    assert folded.text == net.replace("{}", layer("Bias", "s", "x", "y"))
    assert [blob.shape for blob in folded.blobs["s"]] == [(4,)]


def test_specs_of_a_layer_that_is_written_anew_go(tmp_path: Path) -> None:
    specs = "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } include { phase: TEST }"
    net = data() + relu("q", "data", "x") + layer("BatchNorm", "n", "x", "n", specs)
    folded = check(weighed(tmp_path, net))
    assert folded.text == data() + relu("q", "data", "x") + layer(
        "Scale", "n", "x", "n", "include { phase: TEST } scale_param { bias_term: true }"
    )


def test_a_relu_inside_a_batch_norm_stays(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "b", "relu: true")
    assert check(weighed(tmp_path, net)).text == net


# ---------------------------------------------------------------------------------------------------------- the weights


def test_a_bias_is_added_in_text_and_in_the_stored_parameter(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false", body="param { lr_mult: 1 }") + bn("b", "c", "c")
    weight, (mean, variance, factor) = he(4, 4, 1, 1), batch_norm(4)
    stored_param = protobuf.delimited(106, protobuf.integer(1, 4) + protobuf.integer(2, 0))
    files = save(
        tmp_path, net, [stored("c", weight, kind="Convolution", more=stored_param), stored("b", mean, variance, factor)]
    )
    folded = check(files)
    assert "bias_term: true" in folded.text
    multiplier = 1 / np.sqrt(variance.astype(float) / factor + 1e-5)
    found = folded.blobs["c"]
    assert np.allclose(found[0], weight * multiplier[:, None, None, None], rtol=1e-6)
    assert np.allclose(found[1], -mean / factor * multiplier, rtol=1e-6)
    assert (
        protobuf.delimited(106, protobuf.integer(1, 4) + protobuf.integer(2, 1)) in folded.files.caffemodel.read_bytes()
    )


def test_no_bias_is_added_where_nothing_shifts(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false") + scaled("s", "c", "c", "")
    folded = check(weighed(tmp_path, net))
    assert folded.text == data() + conv("c", "data", "c", more="bias_term: false")
    assert [len(blobs) for blobs in folded.blobs.values()] == [1]


def test_weights_that_no_fold_touched_keep_their_bytes(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "c") + conv("d", "c", "d") + layer("Bias", "s", "d", "s")
    weight, bias = np.array([np.nan, -0.0, 1e-42, np.inf] * 4, np.float32).reshape(4, 4, 1, 1), he(4, 1)[:, 0]
    odd = stored(
        "d", he(4, 4, 1, 1), he(4, 1, seed=1)[:, 0], more=protobuf.delimited(999, b"vendor") + protobuf.integer(10, 1)
    )
    alien = stored("loss", he(3), kind="SomeLoss")
    files = save(
        tmp_path,
        net + conv("k", "s", "k"),
        [
            alien,
            stored("s", bias),
            odd,
            stored("k", weight, bias),
            stored("b", *batch_norm(4)),
            stored("c", he(4, 4, 1, 1), bias),
        ],
    )
    folded = fold(files)
    content = folded.files.caffemodel.read_bytes()
    assert [name for name, _ in folded.stored] == ["loss", "d", "k", "c"]
    assert alien in content
    assert stored("k", weight, bias) in content
    weight_of_d = stored("d", he(4, 4, 1, 1))[2:]  # the shift goes into the bias alone
    assert weight_of_d[-64:] in content
    assert protobuf.delimited(999, b"vendor") + protobuf.integer(10, 1) in content


def test_a_layer_of_the_caffemodel_that_goes_and_stands_there_twice(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false") + bn("b", "c", "c")
    old, new = he(4, 4, 1, 1, seed=1), he(4, 4, 1, 1)
    files = save(
        tmp_path, net, [stored("c", old), stored("b", *batch_norm(4, 1)), stored("c", new), stored("b", *batch_norm(4))]
    )
    folded = check(files)
    assert [(name, len(blobs)) for name, blobs in folded.stored] == [("c", 2)]
    assert np.allclose(folded.blobs["c"][0] / new, (folded.blobs["c"][0] / new)[:, :1], rtol=1e-5)


def test_layers_of_one_name(tmp_path: Path) -> None:
    """The first of them has the weights: they stay with it, and go with it."""
    power = layer("Power", "c", "x", "y", "power_param { scale: 2 }")
    folded = check(weighed(tmp_path, data() + conv("c", "data", "x") + power + relu("r", "y", "y")), verify=True)
    assert [(name, len(blobs)) for name, blobs in folded.stored] == [("c", 2)]
    normal = bn("r", "x", "y")
    folded = check(weighed(tmp_path, data() + conv("c", "data", "x") + normal + relu("r", "y", "y")), verify=True)
    assert [name for name, _ in folded.stored] == ["c"]


def test_double_data_stays_double(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false") + bn("b", "c", "c")
    weight = he(4, 4, 1, 1).astype(np.float64) / 3
    folded = check(save(tmp_path, net, {"c": [weight], "b": batch_norm(4)}))
    assert [blob.dtype for blob in folded.blobs["c"]] == [np.float64, np.float64]


def test_legacy_shapes_stay(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false") + bn("b", "c", "c")
    net += layer("InnerProduct", "i", "c", "i", "inner_product_param { num_output: 3 }") + scaled("s", "i", "i")
    weights = [
        stored("c", he(4, 4, 1, 1), legacy=True),
        stored("b", *batch_norm(4), legacy=True),
        stored("i", he(3, 144), np.zeros(3, np.float32), legacy=True),
        stored("s", *scale(3), legacy=True),
    ]
    folded = check(save(tmp_path, net, weights))
    assert [blob.shape for blob in folded.blobs["c"]] == [(4, 4, 1, 1), (1, 1, 1, 4)]
    assert [blob.shape for blob in folded.blobs["i"]] == [(1, 1, 3, 144), (1, 1, 1, 3)]


# ------------------------------------------------------------------------------------------------------- old formats

V1 = (
    'input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 6\n'
    'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 '
    "convolution_param { num_output: 4 kernel_size: 1 bias_term: false } }\n"
)
V1_CONV = protobuf.delimited(10, protobuf.integer(1, 4) + protobuf.integer(2, 0))


def test_v1_power_folds_into_a_convolution(tmp_path: Path) -> None:
    power = 'layers { name: "p" type: POWER bottom: "c" top: "p" power_param { scale: 2 shift: 1 } }\n'
    folded = check(
        save(tmp_path, V1 + power, [stored_v1("c", he(4, 4, 1, 1), number=4, more=V1_CONV), stored_v1("p", number=26)])
    )
    assert folded.text == V1.replace("false", "true").replace('top: "c"', 'top: "p"')
    assert [blob.shape for blob in folded.blobs["c"]] == [(4, 4, 1, 1), (1, 1, 1, 4)]
    assert (
        protobuf.delimited(10, protobuf.integer(1, 4) + protobuf.integer(2, 1)) in folded.files.caffemodel.read_bytes()
    )


def test_v1_powers_become_one(tmp_path: Path) -> None:
    power = 'layers { name: "%s" type: POWER bottom: "%s" top: "%s" power_param { scale: 2 shift: 1 } }\n'
    net = (
        V1
        + 'layers { name: "t" type: TANH bottom: "c" top: "t" }\n'
        + power % ("p", "t", "p")
        + power % ("o", "p", "o")
    )
    net += 'layers { name: "u" type: TANH bottom: "o" top: "u" }\n'
    folded = check(save(tmp_path, net, [stored_v1("c", he(4, 4, 1, 1), number=4, more=V1_CONV)]))
    assert folded.text == net.replace(power % ("p", "t", "p"), "").replace(
        power % ("o", "p", "o"), power.replace("scale: 2 shift: 1", "scale: 4 shift: 3") % ("o", "t", "o")
    )


def test_v1_bn_of_a_fork(tmp_path: Path) -> None:
    """It folds; where it must stay it is a BN again, for the format knows no Scale."""
    normal = 'layers { name: "%s" type: BN bottom: "%s" top: "%s" bn_param { bn_mode: INFERENCE } }\n'
    net = V1 + normal % ("n", "c", "c") + 'layers { name: "t" type: TANH bottom: "c" top: "t" }\n'
    net += normal % ("m", "t", "m") + 'layers { name: "p" type: POWER bottom: "m" top: "p" power_param { shift: 3 } }\n'
    weights = [stored_v1("c", he(4, 4, 1, 1), number=4), stored_v1("n", *scale(4)), stored_v1("m", *scale(4, 1))]
    folded = check(save(tmp_path, net, weights))
    assert folded.types == ["Input", "Convolution", "TanH", "BN"]
    gamma, beta = scale(4, 1)
    assert np.array_equal(folded.blobs["m"], [gamma, beta + np.float32(3)])


def test_v0_has_nothing_to_fold(tmp_path: Path) -> None:
    net = V1.replace(
        'name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 '
        "convolution_param { num_output: 4 kernel_size: 1 bias_term: false }",
        'layer { name: "c" type: "conv" num_output: 4 kernelsize: 1 biasterm: false } bottom: "data" top: "c"',
    )
    files = save(tmp_path, net, [stored_v1("c", he(4, 4, 1, 1), number=4)])
    folded = check(files)
    assert folded.text == net
    assert folded.files.caffemodel.read_bytes() == files.caffemodel.read_bytes()


# --------------------------------------------------------------------------------------- the same again, and bad input


def test_nothing_to_fold_gives_equal_files(tmp_path: Path) -> None:
    files = weighed(tmp_path, data() + conv("c", "data", "c") + relu("r", "c", "c"))
    folded = fold(files, verify=True)
    assert [path.read_bytes() for path in folded.files] == [path.read_bytes() for path in files]
    assert folded.result.verification is not None
    assert folded.result.verification.identical


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    files = weighed(tmp_path, PLAIN)
    first = [path.read_bytes() for path in fold(files).files]
    assert [path.read_bytes() for path in fold(files).files] == first


def test_verified_by_every_fold_inside(tmp_path: Path) -> None:
    net = PLAIN + bn("b2", "conv2", "b2")
    verification = fold(weighed(tmp_path, net), verify=True).result.verification
    assert verification is not None
    assert verification.passed
    assert [c.layers for c in verification.inner] == ["bn1, scale1 → conv1", "b2 → conv2"]


def test_strict(tmp_path: Path) -> None:
    files = weighed(tmp_path, data() + conv("c", "data", "c") + bn("b", "c", "c", "use_global_stats: false"))
    with pytest.raises(StrictError, match="b; nothing was written"):
        fold(files, strict=True)


BROKEN: dict[str, tuple[Callable[[], dict[str, list[np.ndarray]]], str]] = {
    "no batch norm": (lambda: {"conv1": [he(4, 3, 3, 3)]}, "layer bn1: the layer has no weights"),
    "no convolution": (lambda: {"bn1": batch_norm(4)}, "layer conv1: the layer has no weights"),
    "two blobs": (
        lambda: {"conv1": [he(4, 3, 3, 3)], "bn1": batch_norm(4)[:2]},
        r"layer bn1: the layer has blobs of \[4, 4\] elements",
    ),
    "another number of channels": (
        lambda: {"conv1": [he(4, 3, 3, 3)], "bn1": batch_norm(5)},
        r"layer bn1: the blobs have \[5\] elements and blob conv1",
    ),
    "a bias too many": (
        lambda: {"conv1": [he(4, 3, 3, 3), he(4)], "bn1": batch_norm(4)},
        "layer conv1: the layer has 2 blobs",
    ),
    "a wrong kernel": (
        lambda: {"conv1": [he(4, 3, 3, 1)], "bn1": batch_norm(4)},
        r"layer conv1: blob 0 has shape \(4, 3, 3, 1\)",
    ),
    "gamma of another shape": (
        lambda: {"conv1": [he(4, 3, 3, 3)], "bn1": batch_norm(4), "scale1": [s.reshape(4, 1) for s in scale(4)]},
        r"layer scale1: blob 0 has shape \(4, 1\)",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, fault: str) -> None:
    weights, message = BROKEN[fault]
    files = save(tmp_path, PLAIN, weights())
    with pytest.raises(InputError, match=message) as caught:
        explain(files)
    assert str(caught.value).startswith(f"{files.prototxt}:")


def test_the_prototxt_counts_and_not_the_parameters_in_the_caffemodel(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", more="bias_term: false") + bn("b", "c", "b", "eps: 0.5") + relu("r", "b", "o")
    lie = protobuf.delimited(139, protobuf.integer(1, 0))  # batch_norm_param { use_global_stats: false }
    mean, variance, factor = batch_norm(4)
    files = save(tmp_path, net, [stored("c", he(4, 4, 1, 1)), stored("b", mean, variance, factor, more=lie)])
    x = np.ones((2, 4, 6, 6), np.float32)
    wanted = np.einsum("oi,nihw->nohw", he(4, 4, 1, 1)[:, :, 0, 0].astype(float), x)
    wanted = (wanted - (mean / factor)[:, None, None]) / np.sqrt(variance / factor + 0.5)[:, None, None]
    found = run(check(files).files, {"data": x})["o"]
    assert np.allclose(found, wanted.clip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alike", [False, True])
def test_what_stays_behind_an_unknown_layer_has_the_channels_of_its_blobs(tmp_path: Path, alike: bool) -> None:
    """A Concat of what nobody knows has an open number of channels; the BatchNorm has 5."""
    text = data() + layer("Mystery", "m", "data", "m") + conv("c", "m", "c", outs=3) + layer("ReLU", "r", "c", "c")
    text += layer("Concat", "k", "c m", "k") + bn("bn", "k", "bn") + layer("Sigmoid", "g", "bn", "g")
    ones = np.ones(5) if alike else np.arange(1.0, 6)
    weights = {"c": [np.ones((3, 2, 1, 1)), np.ones(3)], "bn": [ones, ones, np.ones(1)]}
    arrays = dict(fold(save(tmp_path, text, weights)).stored)["bn"]
    assert [array.shape for array in arrays] == [(5,), (5,)]
