"""Every row of the table of layer types: exported and run by onnxruntime, it gives what Caffe computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.caffe.layers.table import ROWS, Role, Row
from bnfold.caffe.lowered import Lowered
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import BnfoldError, InputError

from ..build import Array, data, layer, run, save
from .rows import CASES, IN_PLACE, ROLES, SHARING, Case

NOTHING = {"none": [np.zeros(1)]}
"""A caffemodel has at least one layer."""

TOLERANCE = 1e-5
"""Relative to the largest element of a top, in float32."""


def expected(case: Case) -> list[Array]:
    """The tops that the formula gives, in float64."""
    wanted = case.formula(*(a.astype(np.float64) for a in case.bottoms + case.blobs))
    return wanted if isinstance(wanted, list) else [wanted]


def walk(kind: str, folder: Path) -> None:
    """Run each case of a type; raises AssertionError where a top is not what its formula says."""
    assert kind in CASES, f"no case for {kind}: add a layer and its formula to CASES in tests/caffe/layers/rows.py"
    for case in CASES[kind]:
        tops = expected(case)
        inputs = {f"x{i}": array for i, array in enumerate(case.bottoms)}
        names = [f"y{i}" for i in range(len(tops))]
        text = "".join(data(*array.shape, name=name) for name, array in inputs.items())
        text += layer(kind, "l", " ".join(inputs), " ".join(names), case.text)
        found = run(save(folder, text, {"l": case.blobs} if case.blobs else NOTHING), inputs)
        assert sorted(found) == names
        for name, top in zip(names, tops, strict=True):
            assert found[name].shape == np.shape(top), f"{kind} {case.text}"
            error = np.abs(found[name] - top).max(initial=0)
            assert error <= TOLERANCE * max(1.0, np.abs(top).max(initial=0)), (
                f"{kind} {case.text} is off by {error:.2g}"
            )


@pytest.mark.parametrize("kind", [kind for kind, row in ROWS.items() if row.role is Role.PLAIN])
def test_computes_what_caffe_does(kind: str, tmp_path: Path) -> None:
    walk(kind, tmp_path)


def play(kind: str, folder: Path) -> None:
    """See that a type that computes nothing is to the net what it should be."""
    assert kind in ROLES, f"no role for {kind}: add the type to ROLES in tests/caffe/layers/rows.py"
    role = ROLES[kind]
    if role is Role.SOURCE:
        text = layer(kind, "l", "", "x") + layer("ReLU", "r", "x", "y")
    else:
        text = data(2, 3, name="x") + layer("ReLU", "r", "x", "y") + layer("TanH", "t", "x", "z")
        text += layer(kind, "l", "y", "loss" if role is Role.CUT else "")
    graph = lower(load(*save(folder, text, NOTHING))).graph
    assert [value.name for value in graph.inputs] == ["x"]
    ends = {Role.SOURCE: ["y"], Role.CUT: ["y", "z"], Role.SINK: ["z"]}
    assert sorted(value.name for value in graph.outputs) == ends[role]


@pytest.mark.parametrize("kind", [kind for kind, row in ROWS.items() if row.role is not Role.PLAIN])
def test_plays_its_role(kind: str, tmp_path: Path) -> None:
    play(kind, tmp_path)


def lowered(kind: str, case: Case, top: str, behind: str, folder: Path) -> Lowered:
    """A layer from x0 and others to `top` and others, and what stands behind it."""
    tops = [top, *(f"other{i}" for i in range(1, len(expected(case))))]
    inputs = {f"x{i}": array for i, array in enumerate(case.bottoms)}
    text = "".join(data(*array.shape, name=name) for name, array in inputs.items())
    text += layer(kind, "l", " ".join(inputs), " ".join(tops), case.text) + behind
    return lower(load(*save(folder, text, {"l": case.blobs} if case.blobs else NOTHING)))


def lie(kind: str, folder: Path) -> None:
    """See where the top of a type may lie: over its bottom, and in the memory of that."""
    cases = [case for case in CASES[kind] if case.bottoms]
    over, later = False, layer("ReLU", "r", "y", "y") + layer("TanH", "t", "x0", "z")
    for case in cases:
        with contextlib.suppress(InputError):
            over |= not lowered(kind, case, "x0", "", folder).opaque
    shared = any(lowered(kind, case, "y", later, folder).clobbered for case in cases)
    assert over == (kind in IN_PLACE), f"{kind} in place, against IN_PLACE in tests/caffe/layers/rows.py"
    assert shared == (kind in SHARING), f"the memory of {kind}, against SHARING in tests/caffe/layers/rows.py"


@pytest.mark.parametrize("kind", [kind for kind, row in ROWS.items() if row.role is Role.PLAIN and row.bottoms[1]])
def test_lies_where_caffe_puts_it(kind: str, tmp_path: Path) -> None:
    lie(kind, tmp_path)


@pytest.mark.parametrize(("operation", "may"), [("PROD", True), ("SUM", False), ("MAX", False)])
def test_of_an_eltwise_only_the_product_lies_over_its_bottom(operation: str, may: bool, tmp_path: Path) -> None:
    x = CASES["TanH"][0].bottoms[0]
    case = Case(f"eltwise_param {{ operation: {operation} }}", lambda *inputs: inputs[0], (x, x))
    if may:
        assert not lowered("Eltwise", case, "x0", "", tmp_path).opaque
    else:
        with pytest.raises(InputError, match="in place overwrites its bottom"):
            lowered("Eltwise", case, "x0", "", tmp_path)


# ---------------------------------------------------------------------------------------------------------- mutants


def after(op: str, kind: str) -> Callable[[], Row]:
    """The row with one more operator behind its tops."""
    row = ROWS[kind]
    return lambda: replace(row, describe=lambda b: [b.node(op, value) for value in row.describe(b)])


def like(kind: str) -> Callable[[], Row]:
    return lambda: ROWS[kind]


WRONG: dict[str, Callable[[], Row]] = {
    "ELU": like("ReLU"),
    "Sigmoid": like("TanH"),
    "AbsVal": like("Dropout"),
    "ReLU6": like("ReLU"),
    "Swish": like("Sigmoid"),
    "BN": like("CuDNNBatchNorm"),
    "Deconvolution": like("Convolution"),
    "ConvolutionDepthwise": like("Convolution"),
    "Im2col": after("Abs", "Im2col"),
    "Embed": after("Neg", "Embed"),
    "SPP": after("Relu", "SPP"),
    "MVN": like("Normalize"),
    "LRN": after("Relu", "LRN"),
    "Reduction": after("Abs", "Reduction"),
    "Tile": like("Split"),
    "Filter": after("Relu", "Filter"),
    "BatchReindex": after("Relu", "BatchReindex"),
    "Reverse": like("Split"),
    "Permute": like("Split"),
    "ShuffleChannel": like("Split"),
    "Flatten": like("Split"),
    "Pooling": after("Relu", "Pooling"),
    "Softmax": like("Sigmoid"),
    "Scale": like("Bias"),
    "LSTM": like("RNN"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_caught(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, kind, WRONG[kind]())
    with pytest.raises((AssertionError, BnfoldError)):
        walk(kind, tmp_path)


WRONG_PLACES = [
    ("AbsVal", {"in_place": ROWS["ReLU"].in_place}), ("Tile", {"in_place": ROWS["ReLU"].in_place}),
    ("Softmax", {"in_place": ROWS["Tile"].in_place}), ("Permute", {"shares": ROWS["Tile"].shares}),
    ("Reshape", {"shares": ROWS["Tile"].shares}), ("Reverse", {"shares": ROWS["Split"].shares}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "how"), WRONG_PLACES)
def test_a_wrong_place_is_caught(
    kind: str, how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, kind, replace(ROWS[kind], **how))
    with pytest.raises(AssertionError, match=f"{kind} in place|the memory of {kind}"):
        lie(kind, tmp_path)


WRONG_ROLES = [
    ("Accuracy", Role.PLAIN), ("Accuracy", Role.SINK), ("Data", Role.PLAIN), ("Data", Role.CUT), ("Input", Role.SINK),
    ("Silence", Role.CUT),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "role"), WRONG_ROLES)
def test_a_wrong_role_is_caught(kind: str, role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, kind, replace(ROWS[kind], role=role))
    with pytest.raises((AssertionError, BnfoldError)):
        play(kind, tmp_path)


def test_a_row_without_a_case_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "OfNobody", ROWS["TanH"])
    with pytest.raises(AssertionError, match="no case for OfNobody: add a layer and its formula"):
        walk("OfNobody", tmp_path)
    monkeypatch.setitem(ROWS, "OfNobody", ROWS["Data"])
    with pytest.raises(AssertionError, match="no role for OfNobody"):
        play("OfNobody", tmp_path)
