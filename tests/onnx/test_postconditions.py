"""A plan that is wrong, or wrongly applied, is bnfold's own fault and named so: status 70, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx_models import conv_bn

from bnfold import cli, pipeline
from bnfold.caffe import naming
from bnfold.caffe.document import CaffeDocument
from bnfold.caffe.weights import caffemodel
from bnfold.errors import InputError, PostconditionError, UsageError
from bnfold.onnx.document import OnnxDocument
from bnfold.onnx.edit import Edit, Editor
from bnfold.onnx.graphs import Scope
from bnfold.onnx.messages import StoredNode
from bnfold.onnx.postconditions import check_edits
from bnfold.onnx.serialize import Line
from bnfold.onnx.splice import Written
from bnfold.options import Options
from bnfold.planner import passes as planning
from bnfold.protobuf import Rope


def edited() -> tuple[OnnxDocument, dict[Scope, Edit]]:
    document = OnnxDocument.from_bytes(conv_bn().SerializeToString())
    plans = {graph: planning.plan(graph, document.style) for graph in document.graphs()}
    return document, dict(Editor(document.model.data.buffer, document.scopes, plans, ()).run())


def broken(change: Callable[[Edit, list[StoredNode]], Any]) -> dict[Scope, Edit]:
    document, edits = edited()
    scope = document.scopes[0]
    change(edits[scope], list(scope.nodes))
    return edits


FAULTS: dict[str, tuple[str, Callable[[Edit, list[StoredNode]], Any]]] = {
    "a value that nothing makes": (
        "reads 'm' before anything makes it",
        lambda edit, nodes: edit.wires_of(nodes[2]).inputs.__setitem__(0, "m"),
    ),
    "a value that is made later": (
        "reads 'y' before anything makes it",
        lambda edit, nodes: edit.wires_of(nodes[0]).inputs.__setitem__(0, "y"),
    ),
    "a constant that is gone": (
        "reads 'bn.g' before anything makes it",
        lambda edit, nodes: edit.wires_of(nodes[0]).inputs.__setitem__(1, "bn.g"),
    ),
    "an output that nothing makes": (
        "reads 'y' before anything makes it",
        lambda edit, nodes: edit.wires_of(nodes[2]).outputs.__setitem__(0, "z"),
    ),
    "one name for two values": (
        "two values are called 'x'",
        lambda edit, nodes: edit.wires_of(nodes[0]).outputs.__setitem__(0, "x"),
    ),
    "one name for two constants": (
        "two constants .* have one name",
        lambda edit, nodes: edit.added.__setitem__("W", None),  # type: ignore[arg-type]
    ),
    "one name for two nodes": (
        "two nodes are called 'n_c'",
        lambda edit, nodes: edit.instead.__setitem__(nodes[1], Written(Rope(), [Line("n_c", ["n"], ["m"])])),
    ),
    "a node of another graph": (
        "is not in the graph",
        lambda edit, nodes: edit.instead.__setitem__(edited()[0].scopes[0].stored.nodes[0], Written(Rope())),
    ),
    "a constant of another graph": (
        "is not in the graph",
        lambda edit, nodes: edit.removed.update(edited()[0].scopes[0].stored.initializers),
    ),
}


def test_edits_of_a_plan_hold() -> None:
    check_edits(edited()[1])


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_edits_are_named(fault: str) -> None:
    told, change = FAULTS[fault]
    with pytest.raises(PostconditionError, match=told):
        check_edits(broken(change))


# ---------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture
def work(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("keras.onnx", "cifar10.prototxt", "cifar10.caffemodel"):
        shutil.copy(samples / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def misplanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans in which a value that goes is read on."""
    real = planning.plan

    def plan(*args: Any) -> Any:
        made = real(*args)
        made.aliases.clear()
        made.names.clear()
        return made

    monkeypatch.setattr(planning, "plan", plan)


@pytest.mark.parametrize("words", [["keras.onnx"], ["cifar10.prototxt", "cifar10.caffemodel"]])
@pytest.mark.parametrize("verify", [[], ["--no-verify"]])
def test_a_wrong_plan_is_a_fault_of_bnfold(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], verify: list[str]
) -> None:
    misplanned(monkeypatch)
    before = sorted(work.iterdir())
    assert cli.main([*words, "-o", "out", *verify]) == 70
    assert "a fault of bnfold itself: PostconditionError" in capsys.readouterr().err
    assert sorted(work.iterdir()) == before
    assert cli.main([*words, "-o", "out", *verify, "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_blobs_are_found_under_their_names(work: Path) -> None:
    document = CaffeDocument.open(Path("cifar10.prototxt"), Path("cifar10.caffemodel"))
    steps = [naming.Step(item.layer, item.bottoms, item.tops) for item in document.lowered.layers]
    names = {value: value.name for step in steps for value in step.tops}
    naming.check_names(names, steps)
    first, second = steps[0].tops[0], steps[1].tops[0]
    naming.check_names(names | {second: names[first]}, steps)  # in place, which is no fault by itself
    with pytest.raises(PostconditionError, match="would not find"):
        naming.check_names(names | {second: names[first]}, [*steps, naming.Step(steps[1].layer, [first], [])])


def test_a_result_that_cannot_be_read_back(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caffemodel.Caffemodel, "rope", lambda self, *args: Rope(b"\xff\xff"))
    with pytest.raises(PostconditionError, match="cannot be read back") as told:
        pipeline.fold(["cifar10.prototxt", "cifar10.caffemodel"], "out", Options(verify=False))
    assert isinstance(told.value.__cause__, InputError | UsageError)
