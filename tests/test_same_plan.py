"""A Caffe net and the ONNX model exported from it are one network, and so they have one plan.

The Caffe document knows more: which nodes make up a layer, which therefore have one price and one name, share weights,
or stay because they are parts of a Power or an LRN. Hence

1. an ONNX graph that is told so has the same plan in everything: chains, ways, layers, leftovers, reasons. Numbers are
   equal as far as float32 goes, since an export rounds the quotients of a BatchNorm's blobs;
2. an ONNX graph by itself, at its own prices, loses at least the chains that the Caffe net loses, in the same ways and
   into the same layers. It may lose more, because each part of a layer is a node of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe.build import Files, bn, conv, data, layer, scaled
from caffe.weigh import weighed

from bnfold.caffe.document import CaffeDocument
from bnfold.caffe.export import onnx_model
from bnfold.ir.graph import Graph, Node
from bnfold.ir.names import readable
from bnfold.onnx.document import OnnxDocument
from bnfold.planner.affine import Affine
from bnfold.planner.passes import plan
from bnfold.planner.records import Decision, Plan

# ---------------------------------------------------------------------------------------------------------- both plans


class Pair:
    """One net as both documents see it."""

    def __init__(self, files: Files) -> None:
        stream = io.BytesIO()
        onnx_model(*files)[0].write(stream)
        self.caffe, self.onnx = CaffeDocument.open(*files), OnnxDocument.from_bytes(stream.getvalue())
        values = list(self.caffe.lowered.graph.inputs)
        values += [value for node in self.caffe.lowered.graph.nodes for value in node.outputs]
        names = readable(value.name for value in values)
        for value in values:
            value.name = names[value.name]  # as ONNX has it

    def check(self) -> Plan:
        """Hold the plans together; returns Caffe's."""
        (own,), (other,) = self.caffe.graphs(), self.onnx.graphs()
        wanted, alone = plan(own, self.caffe.style), plan(other, self.onnx.style)
        for chain, (way, above, below) in lost(wanted).items():
            found = next((told for nodes, told in lost(alone).items() if chain <= nodes), None)
            assert found == (way, above, below), f"by itself, ONNX folds {sorted(chain)} otherwise"
        tell_layers(own, other)
        told = plan(other, self.caffe.style)
        assert [(s.node, s.type, s.reason.code) for s in told.stayed] == [
            (s.node, s.type, s.reason.code) for s in wanted.stayed
        ]
        for one, two in zip(wanted.decisions, told.decisions, strict=True):
            assert described(one) == described(two)
            assert close(one.chain.affine, two.chain.affine)
            assert close(one.leftover, two.leftover)
        return wanted


def tell_layers(caffe: Graph, onnx: Graph) -> None:
    """Tell the nodes of an exported model, by what they make, from which layers they are."""
    makers = {node.outputs[0].name: node for node in caffe.nodes}
    for node in onnx.nodes:
        maker = makers[node.outputs[0].name]
        assert node.op == maker.op
        node.origin, node.name, node.fixed = maker.origin, maker.name, maker.fixed
    onnx.notes = caffe.notes


def tops(nodes: Iterable[Node]) -> tuple[str, ...]:
    """What names a node in both graphs."""
    return tuple(node.outputs[0].name for node in nodes)


def lost(found: Plan) -> dict[frozenset[str], Any]:
    """The chains of which nothing stays, neither in their place nor in another chain: the way, and what takes them."""
    gone = [d for d in found.decisions if not (d.untouched or d.leftover or d.merged or d.way == "merge")]
    return {frozenset(tops(d.chain.nodes)): (d.way, tops(d.above), tops(d.below)) for d in gone}


def described(decision: Decision) -> Any:
    groups = (decision.chain.nodes, decision.above, decision.below, decision.through)
    reasons = [(reason.code, reason.at) for reason in decision.reasons]
    return [tops(nodes) for nodes in groups], decision.way, decision.merged, decision.untouched, reasons


def close(one: Affine | None, other: Affine | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = ((one.a, other.a), (one.b, other.b))
    return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max()) for a, b in pairs)


# ---------------------------------------------------------------------------------------------------------------- nets


def pool(name: str, bottom: str, top: str, how: str = "AVE") -> str:
    return layer("Pooling", name, bottom, top, f"pooling_param {{ pool: {how} kernel_size: 2 stride: 2 }}")


def relu(name: str, bottom: str, top: str) -> str:
    return layer("ReLU", name, bottom, top)


def power(name: str, bottom: str, top: str, how: str) -> str:
    return layer("Power", name, bottom, top, f"power_param {{ {how} }}")


HEAD = relu("r", "y", "r") + conv("last", "r", "out", 3, 3, "pad: 1")
NETS = {
    "up": ("up", conv("c", "data", "c") + bn("b", "c", "b") + scaled("s", "b", "y")),
    "up, past a pooling": ("up", conv("c", "data", "c") + pool("p", "c", "p") + bn("b", "p", "y")),
    "up, into both branches": (
        "up",
        conv("c", "data", "c")
        + conv("d", "data", "d")
        + layer("Eltwise", "e", "c d", "e")
        + bn("b", "e", "b")
        + scaled("s", "b", "y"),
    ),
    "down": ("down", bn("b", "data", "b") + scaled("s", "b", "b") + conv("c", "b", "y", 4, 3)),
    "down, into two": (
        "down",
        bn("b", "data", "b") + conv("c", "b", "c", 2, 3) + conv("d", "b", "d", 2, 3) + layer("Concat", "k", "c d", "y"),
    ),
    "down and up": ("down up", bn("a", "data", "a") + conv("c", "a", "c") + pool("p", "c", "p") + bn("b", "p", "y")),
    "in part, the multiplier": ("down", bn("b", "data", "b") + conv("c", "b", "y", 4, 3, "pad: 1")),
    "in place": ("merge", bn("b", "data", "b") + scaled("s", "b", "y")),
    "one into the other": ("down up", bn("a", "data", "a") + pool("p", "a", "p") + bn("b", "p", "y")),
    "kept": ("keep", conv("c", "data", "c") + scaled("s", "c", "s") + layer("Eltwise", "e", "s c", "y")),
    "nothing at all": ("drop", power("p", "data", "p", "scale: 2") + power("q", "p", "y", "scale: 0.5")),
    "parts of a power": ("up", conv("c", "data", "c") + bn("b", "c", "b") + power("p", "b", "y", "power: 2 shift: 1")),
    "one layer, two tops": (
        "merge merge",
        conv("c", "data data", "c d") + bn("a", "c", "a") + bn("b", "d", "b") + layer("Eltwise", "e", "a b", "y"),
    ),
    "statistics of the batch": ("", conv("c", "data", "c") + bn("b", "c", "y", "use_global_stats: false")),
}


@pytest.mark.parametrize("case", NETS)
def test_built(case: str, tmp_path: Path) -> None:
    ways, body = NETS[case]
    found = Pair(weighed(tmp_path, data() + body + HEAD)).check()
    assert [decision.way for decision in found.decisions] == ways.split()


@pytest.mark.parametrize("name", ["cifar10", "resnet_block", "train_test"])
def test_samples(name: str, samples: Path) -> None:
    found = Pair(Files(samples / f"{name}.prototxt", samples / f"{name}.caffemodel")).check()
    assert found.decisions


@pytest.mark.parametrize("part", ["golden/fold", "golden/layers", "models/caffe"])
def test_corpus(part: str, shared: Path) -> None:
    wrong = {}
    for folder in {path.parent for path in (shared / part).glob("*/*.caffemodel")}:
        names = ("net.prototxt", "deploy.prototxt", "net.caffemodel", "weights.caffemodel")
        files = Files(*(folder / name for name in names if (folder / name).exists()))
        if CaffeDocument.open(*files).lowered.opaque:
            continue  # ONNX has no such layer
        try:
            Pair(files).check()
        except AssertionError as difference:
            wrong[folder.name] = str(difference)
    assert not wrong
