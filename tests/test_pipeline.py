"""From files to files, and from a model to a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Net, random_block

import bnfold
from bnfold.formats import open_document
from bnfold.options import Options
from bnfold.pipeline import MismatchError, explain, fold
from bnfold.verification.probes import probes
from bnfold.verification.verifier import Verifier


@pytest.fixture
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    return Net([random_block(rng, 4, 4) for _ in range(3)], batch="n").original()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "order", [["cifar10.prototxt", "cifar10.caffemodel"], ["cifar10.caffemodel", "cifar10.prototxt"]]
)
def test_kinds_are_told_by_content(samples: Path, tmp_path: Path, order: Sequence[str]) -> None:
    renamed = [Path(shutil.copy(samples / name, tmp_path / f"file{i}")) for i, name in enumerate(order)]
    result = explain(renamed)
    assert [d.chain.nodes[0].name for _, plan in result.plans for d in plan.decisions] == ["bn1", "bn2"]
    assert explain(shutil.copy(samples / "keras.onnx", tmp_path / "file")).before["BatchNormalization"] == 2


def test_a_model_gives_a_new_model(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    folded = bnfold.fold(model)
    assert model.SerializeToString() == before
    assert kinds(folded) == ["Conv", "Relu"] * 3 + ["Identity"]
    assert bnfold.fold(folded).SerializeToString() == folded.SerializeToString()


def test_the_same_input_gives_the_same_bytes(samples: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        fold([samples / "resnet_block.prototxt", samples / "resnet_block.caffemodel"], tmp_path / name)
    for suffix in ("prototxt", "caffemodel"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"other.{suffix}").read_bytes()


@pytest.mark.parametrize("asked", [{"phase": "LUNCH"}, {"stages": "deploy"}, {"keep": "conv1"}])
def test_options_that_make_no_sense_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(bnfold.UsageError):
        Options(**asked)


def test_what_a_result_tells(samples: Path, tmp_path: Path) -> None:
    result = fold(samples / "keras.onnx", tmp_path / "x.onnx")
    assert result.sources == (samples / "keras.onnx",)
    assert (result.before["BatchNormalization"], result.after.get("BatchNormalization", 0)) == (2, 0)
    assert result.after["parameters"] < result.before["parameters"]
    assert result.verification is not None
    assert result.verification.passed
    assert result.files == {tmp_path / "x.onnx": (tmp_path / "x.onnx").stat().st_size}
    assert result.kept_batch_norms == []


def test_what_is_written_is_what_is_verified(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between folding and the disk is caught, at its layer, and what stood there before stays."""
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "folded.onnx").write_bytes(b"old")
    document = open_document([tmp_path / "net.onnx"], Options())
    real = type(document).folded

    def harmed(self: Any, plans: Any, places: Sequence[Path]) -> Any:
        from bnfold.protobuf import Rope

        (out,) = places
        files = dict(real(self, plans, places))
        room = tmp_path / "room"
        with room.open("wb") as stream:
            files[out].write(stream)
        wrong = onnx.load(room)
        room.unlink()
        second = next(t for t in wrong.graph.initializer if t.name == wrong.graph.node[2].input[1])
        second.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(second) * np.float32(1.01), second.name)
        )
        return {out: Rope(wrong.SerializeToString())}

    monkeypatch.setattr(type(document), "folded", harmed)
    with pytest.raises(MismatchError, match="'y1'") as told:
        fold(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    assert told.value.result.verification is not None
    assert told.value.result.verification.first_wrong is not None
    assert (tmp_path / "folded.onnx").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folded.onnx", "net.onnx"]
    fold(tmp_path / "net.onnx", tmp_path / "folded.onnx", Options(verify=False))
    assert (tmp_path / "folded.onnx").read_bytes() != b"old"


def test_nothing_to_fold_runs_nothing(model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(bnfold.fold(model), tmp_path / "net.onnx")
    monkeypatch.delattr(Verifier, "compare")
    result = fold(tmp_path / "net.onnx", tmp_path / "same.onnx")
    assert result.verification is not None
    assert result.verification.identical
    assert (tmp_path / "same.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_in_memory_needs_a_model_and_files_need_a_name(samples: Path) -> None:
    with pytest.raises(bnfold.UsageError, match="out"):
        fold(samples / "keras.onnx")  # type: ignore[call-overload]
    with pytest.raises(bnfold.UsageError, match="sequence of paths"):
        explain(7)  # type: ignore[arg-type]


def test_taps_stand_where_nothing_has_changed(samples: Path) -> None:
    """Behind each fold of the residual block, in the order of the net."""
    options = Options()
    document = open_document([samples / "resnet_block.prototxt", samples / "resnet_block.caffemodel"], options)
    from bnfold.planner.passes import plan

    watched = probes(document, {graph: plan(graph, document.style) for graph in document.graphs()})
    assert [probe.layers for probe in watched] == [
        "bn_conv1, scale_conv1 → conv1",
        "bn2a_branch1, scale2a_branch1 → res2a_branch1",
        "bn2a_branch2a, scale2a_branch2a → res2a_branch2a",
        "bn2a_branch2b, scale2a_branch2b → res2a_branch2b",
    ]
