"""The verifier: right folds pass however badly conditioned, faults are caught at their layer, crashes become errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Block, Fold, Net, random_block, runnable
from onnx import TensorProto, helper, numpy_helper

import bnfold.verification.verifier as verifier
from bnfold.document import Runnable
from bnfold.errors import VerificationError
from bnfold.verification.child import _answer
from bnfold.verification.engine import Reference
from bnfold.verification.inspect import inspect, shaken
from bnfold.verification.judge import difference, judge
from bnfold.verification.outcome import Compared, Verification
from bnfold.verification.probes import Probe
from bnfold.verification.verifier import Verifier


def compare(
    original: Runnable, folded: Runnable, probes: Sequence[str] = (), outputs: Sequence[str] = ("out",)
) -> Verification:
    with Verifier() as verifier:
        return verifier.compare(
            original, folded, outputs, [Probe(name, name, f"the fold at {name}") for name in probes]
        )


def judged(original: onnx.ModelProto, folded: onnx.ModelProto, probes: Sequence[str], room: Path) -> dict[str, Any]:
    """The child's answer, without starting a process; the output is called `out`."""
    sides = {}
    for name, model in (("original", original), ("folded", folded)):
        with (room / name).open("wb") as stream:
            runnable(model, list(probes)).model.write(stream)
        sides[name] = {"model": str(room / name), "data": None}
    names = [("out", "out"), *((probe, probe) for probe in probes)]
    return _answer({**sides, "names": names, "outputs": 1, "engine": "", "answer": ""})


def wrong(told: dict[str, Any]) -> list[int]:
    """The numbers of the blocks whose values differ, from the inputs on; -1 is the output."""
    assert not told["problem"]
    return [i - 1 for i, v in enumerate(told["verdicts"]) if not v["error"] <= v["limit"]]


# ------------------------------------------------------------------------------------------- right folds do not alarm


def plain(block: Block, rng: np.random.Generator) -> None:
    pass


def large_means(block: Block, rng: np.random.Generator) -> None:
    """The original subtracts two numbers near 1000."""
    block.mean += np.float32(1000)
    assert block.bias is not None
    block.bias += np.float32(1000)


def tiny_variances(block: Block, rng: np.random.Generator) -> None:
    chosen = rng.random(len(block.mean)) < 0.3
    block.variance[chosen] = 10 ** rng.uniform(-45, -3, chosen.sum())


def dead_channels(block: Block, rng: np.random.Generator) -> None:
    """Weights 0 and the least variance that a float32 can hold, as in trained nets."""
    chosen = rng.random(len(block.mean)) < 0.3
    assert block.bias is not None
    block.weight[chosen], block.variance[chosen], block.mean[chosen] = 0, 1.4e-45, block.bias[chosen]


def fading_channels(block: Block, rng: np.random.Generator) -> None:
    """The original amplifies what is left when its mean is subtracted by 100,000."""
    chosen = rng.random(len(block.mean)) < 0.3
    assert block.bias is not None
    block.weight[chosen] *= np.float32(1e-6)
    block.variance[chosen], block.mean[chosen], block.eps = 1e-12, block.bias[chosen], 1e-10


CONDITIONS = [plain, large_means, tiny_variances, dead_channels, fading_channels]


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("seed", range(4))
def test_right_folds_pass(condition: Callable[..., None], seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    depth, channels, size = int(rng.choice([1, 2, 6])), int(rng.choice([2, 8, 32])), int(rng.choice([1, 2, 8]))
    blocks = [random_block(rng, channels, channels, int(rng.choice([1, 2]))) for _ in range(depth)]
    for block in blocks:
        condition(block, rng)
    net = Net(blocks, size)
    assert wrong(judged(net.original(), net.folded(), [f"y{i}" for i in range(depth)], tmp_path)) == []


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blocks = [random_block(rng, 4, 4) for _ in range(2)]
    for block in blocks:
        for name in ("weight", "bias", "gamma", "beta", "mean", "variance"):
            setattr(block, name, getattr(block, name).astype(dtype))
    net = Net(blocks)
    told = judged(net.original(), net.folded(), ["y0", "y1"], tmp_path)
    assert wrong(told) == []
    assert wrong(judged(net.original(), net.folded({1: beta_forgotten}), ["y0", "y1"], tmp_path))[-1] == 1
    if dtype == "float64":  # there is no such kernel in onnxruntime
        assert told["engine"] == "onnx.ReferenceEvaluator"
        assert "NOT_IMPLEMENTED" in told["note"]


# ------------------------------------------------------------------------------------------------------------- faults


def with_a(a: Callable[[Block], Any]) -> Fold:
    """A fold with another multiplier, right in all else."""

    def fold(block: Block) -> tuple[Any, Any]:
        assert block.bias is not None
        bias = a(block) * (block.bias.astype(np.float64) - block.mean) + block.beta
        return block.weight * a(block)[:, None, None, None], bias

    return fold


def a_of(block: Block) -> Any:
    return block.gamma / np.sqrt(block.variance.astype(np.float64) + block.eps)


def with_bias(bias: Callable[[Block], Any]) -> Fold:
    """A fold with another bias and the right weights."""
    return lambda block: (block.folded()[0], bias(block))


def beta_forgotten(block: Block) -> tuple[Any, Any]:
    return block.folded()[0], block.folded()[1] - block.beta


def one_channel_left_out(block: Block) -> tuple[Any, Any]:
    weight, bias = block.folded()
    weight[0] = block.weight[0]
    return weight, bias


def along_the_inputs(block: Block) -> tuple[Any, Any]:
    per_input = np.resize(a_of(block), block.weight.shape[1])
    return block.weight * per_input[None, :, None, None], block.folded()[1]


def groups_exchanged(block: Block) -> tuple[Any, Any]:
    a = np.roll(a_of(block), len(block.gamma) // 2)
    return block.weight * a[:, None, None, None], block.folded()[1]


FAULTS: dict[str, Fold] = {
    "nothing folded": lambda b: (b.weight, b.bias),
    "bias not scaled": with_bias(lambda b: b.bias - a_of(b) * b.mean + b.beta),
    "mean not scaled": with_bias(lambda b: a_of(b) * b.bias - b.mean + b.beta),
    "mean forgotten": with_bias(lambda b: a_of(b) * b.bias + b.beta),
    "bias forgotten": with_bias(lambda b: b.beta - a_of(b) * b.mean),
    "beta forgotten": beta_forgotten,
    "weights not scaled": lambda b: (b.weight, b.folded()[1]),
    "root forgotten": with_a(lambda b: b.gamma / (b.variance + b.eps)),
    "eps outside the root": with_a(lambda b: b.gamma / (np.sqrt(b.variance) + b.eps)),
    "eps taken as 0": with_a(lambda b: b.gamma / np.sqrt(b.variance)),
    "eps taken as 1e-3": with_a(lambda b: b.gamma / np.sqrt(b.variance + 1e-3)),
    "sign of gamma lost": with_a(lambda b: abs(a_of(b))),
    "factor ignored": lambda b: replace(b, mean=b.mean * 0.999, variance=b.variance * 0.999).folded(),
    "one channel left out": one_channel_left_out,
    "along the input channels": along_the_inputs,
    "groups exchanged": groups_exchanged,
    "weights folded in half precision": lambda b: (b.folded()[0].astype(np.float16), b.folded()[1]),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 2])
def test_faults_are_caught_at_their_layer(fault: str, at: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    blocks = [random_block(rng, 8, 8, 2) for _ in range(3)]
    for block in blocks:
        block.variance /= np.float32(10)  # so that it matters where eps 1e-5 goes
    net = Net(blocks)
    told = judged(net.original(), net.folded({at: FAULTS[fault]}), ["y0", "y1", "y2"], tmp_path)
    assert min(i for i in wrong(told) if i >= 0) == at


def test_a_border_that_is_wrong(tmp_path: Path) -> None:
    """A shift moved in front of zero padding: all is right but the border."""
    rng = np.random.default_rng(0)
    weight, shift = rng.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32), rng.normal(0, 1, 4).astype(np.float32)

    def model(nodes: list[Any], constants: dict[str, Any]) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 32, 32]) for n in ("x", "out")]
        arrays = [numpy_helper.from_array(v, n) for n, v in constants.items()]
        graph = helper.make_graph(nodes, "net", values[:1], values[1:], arrays)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)

    conv = {"pads": [1] * 4}
    before = [helper.make_node("Add", ["x", "s"], ["y"]), helper.make_node("Conv", ["y", "w"], ["out"], **conv)]
    after = [helper.make_node("Conv", ["x", "w", "b"], ["out"], **conv)]
    original = model(before, {"s": shift.reshape(1, 4, 1, 1), "w": weight})
    folded = model(after, {"w": weight, "b": (weight.sum((2, 3)) @ shift).astype(np.float32)})
    assert wrong(judged(original, folded, [], tmp_path)) == [-1]


# -------------------------------------------------------------------------------------------------------- the process


@pytest.fixture
def net() -> Net:
    rng = np.random.default_rng(5)
    return Net([random_block(rng, 4, 4) for _ in range(2)], batch="n")


def test_the_process_judges(net: Net) -> None:
    found = compare(runnable(net.original(), ["y0", "y1"]), runnable(net.folded(), ["y0", "y1"]), ["y0", "y1"])
    assert found.passed
    assert (found.engine, found.draws, found.left_out, found.uncovered) == ("onnxruntime", 2, [], 0)
    assert [c.name for c in found.outputs + found.inner] == ["out", "y0", "y1"]
    assert all(0 < c.error < 1e-5 for c in found.outputs + found.inner)
    found.check()


def test_a_fault_names_the_first_layer(net: Net) -> None:
    folded = runnable(net.folded({0: beta_forgotten}), ["y0", "y1"])
    found = compare(runnable(net.original(), ["y0", "y1"]), folded, ["y0", "y1"])
    assert not found.passed
    assert found.first_wrong is not None
    assert found.first_wrong.name == "y0"
    with pytest.raises(VerificationError, match=r"first at 'y0' \(where the fold at y0\): .*rounding explains"):
        found.check()


def test_a_folded_net_that_overflows(net: Net) -> None:
    folded = net.folded({0: lambda block: (block.folded()[0], block.folded()[1] + np.float32(np.inf))})
    found = compare(runnable(net.original(), ["y0"]), runnable(folded, ["y0"]), ["y0"])
    with pytest.raises(VerificationError, match=r"'y0'.*infinite or NaN where the original is not"):
        found.check()


def test_a_lost_output(net: Net) -> None:
    folded = net.folded()
    folded.graph.output[0].name = folded.graph.node[-1].output[0] = "renamed"
    found = compare(runnable(net.original(), ["y0"]), runnable(folded, ["y0"]), ["y0"])
    with pytest.raises(VerificationError, match="'out': it is missing"):
        found.check()


def test_another_shape(net: Net) -> None:
    other = Net(net.blocks, batch="n")
    folded = other.folded()
    folded.graph.node[-1].op_type = "Flatten"
    with pytest.raises(VerificationError, match=r"float32\[1, 4, 8, 8\] became float32\[1, 256\]"):
        compare(runnable(net.original()), runnable(folded)).check()


def test_a_folded_net_that_does_not_run(net: Net) -> None:
    folded = net.folded()
    folded.graph.node[0].input[0] = "nowhere"
    found = compare(runnable(net.original()), runnable(folded))
    assert not found.passed
    with pytest.raises(VerificationError, match="does not run"):
        found.check()


def test_an_original_that_nothing_runs(net: Net) -> None:
    model = net.original()
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(VerificationError) as told:
        compare(runnable(model), runnable(model))
    assert "cannot be run" in told.value.what
    assert "--no-verify" in told.value.hint


def test_what_is_left_out_is_counted(net: Net) -> None:
    original = runnable(net.original(), ["y0"], left_out=["strange"])
    found = compare(original, runnable(net.folded(), ["y0"]), ["y0", "y1"])
    assert (found.left_out, found.uncovered, found.passed) == (["strange"], 1, True)


def test_nothing_can_be_run(net: Net) -> None:
    original = replace(runnable(net.original(), left_out=["strange"]), outputs=[])
    found = compare(original, replace(runnable(net.folded()), outputs=[]), ["y0"])
    assert (found.left_out, found.passed, found.proven) == (["strange"], True, False)


def test_an_output_that_is_gone_where_nothing_can_be_run(net: Net) -> None:
    original = runnable(net.original(), left_out=["strange"])
    with pytest.raises(VerificationError):
        compare(original, replace(runnable(net.folded()), outputs=[]))


def test_nothing_to_compare(net: Net) -> None:
    with pytest.raises(VerificationError, match="nothing is proven"):
        compare(replace(runnable(net.original()), outputs=[]), runnable(net.folded()))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "for want of memory"),
        ("raise MemoryError('no memory')", "MemoryError: no memory"),
        ("import threading; threading.Event().wait()", "gave no answer in 0 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
    ],
)
def test_a_process_that_dies(net: Net, monkeypatch: pytest.MonkeyPatch, body: str, told: str) -> None:
    def start() -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", f"input(); {body}"], **pipes)

    monkeypatch.setattr(verifier, "_start", start)
    if "wait" in body:
        monkeypatch.setattr(verifier, "TIMEOUT", 0)
    with pytest.raises(VerificationError, match=told) as error:
        compare(runnable(net.original()), runnable(net.folded()))
    assert "--no-verify" in error.value.hint


def test_the_reference_evaluator_takes_over_after_a_crash(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    start, count = verifier._start, []

    def first_crashes() -> subprocess.Popen[bytes]:
        count.append(1)
        if len(count) > 1:
            return start()
        code = "input(); import os; os.abort()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", code], **pipes)

    monkeypatch.setattr(verifier, "_start", first_crashes)
    found = compare(runnable(net.original()), runnable(net.folded()))
    assert found.passed
    assert (found.engine, found.note) == ("onnx.ReferenceEvaluator", "onnxruntime crashed")


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_the_reference_evaluator_normalises_with_stored_statistics(net: Net, opset: int, tmp_path: Path) -> None:
    old = Net(net.blocks, opset=opset)
    with (tmp_path / "model").open("wb") as stream:
        runnable(old.original()).model.write(stream)
    side = {"model": str(tmp_path / "model"), "data": None}
    with (tmp_path / "folded").open("wb") as stream:
        runnable(old.folded()).model.write(stream)
    request = {"original": side, "folded": {"model": str(tmp_path / "folded"), "data": None}}
    told = _answer({**request, "names": [("out", "out")], "outputs": 1, "engine": "reference", "answer": ""})
    assert told["engine"] == "onnx.ReferenceEvaluator"
    assert wrong(told) == []


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("axis", [1, -2, None])
def test_the_reference_evaluator_aligns_operands_as_before_opset_7(op: str, axis: int | None) -> None:
    infos = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 3, 3]), ("k", [3]), ("y", None))]
    how = {} if axis is None else {"axis": axis}
    node = helper.make_node(op, ["x", "k"], ["y"], broadcast=1, **how)
    graph = helper.make_graph([node], "g", infos[:2], infos[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    x, k = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3), np.array([1, 2, 4], np.float32)
    compute = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op]
    (found,) = Reference(model.SerializeToString(), None).run(["y"], {"x": x, "k": k})
    np.testing.assert_array_equal(found, compute(x, k if axis is None else k[:, None]))


def test_external_data(net: Net, tmp_path: Path) -> None:
    sides = []
    for name, model in (("original", net.original()), ("folded", net.folded())):
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
        stored = onnx.load(folder / "net.onnx", load_external_data=False)
        sides.append(runnable(stored, data=folder))
    assert compare(sides[0], sides[1]).passed


def test_free_extents_and_integers(tmp_path: Path) -> None:
    """The first extents tried do not fit; an index into a table of two rows does."""
    table = numpy_helper.from_array(np.eye(2, 7, dtype=np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Add", ["y", "row"], ["out"]),
    ]
    weight = numpy_helper.from_array(np.ones((16, 7), np.float32), "weight")
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "k"]),
        helper.make_tensor_value_info("index", TensorProto.INT64, ["n"]),
    ]
    exits = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, exits, [table, weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    assert wrong(judged(model, model, [], tmp_path)) == []


# ---------------------------------------------------------------------------------------------------------- the judge


def test_where_the_original_is_not_finite_nothing_is_shown() -> None:
    one = np.float32([[1, np.nan, np.inf, 2]])
    for other in (one, np.float32([[1, 3, 4, 2]]), np.float32([[1, -np.inf, np.inf, 2]])):
        verdict = judge([difference(one, other)] * 2, None, 1e-6)
        assert verdict.passed
        assert (verdict.compared, verdict.skipped) == (4, 4)
    assert not judge([difference(one, np.float32([[1, 3, 4, 2.1]]))], None, 1e-6).passed
    nowhere = judge([difference(np.float32([np.nan]), np.float32([0]))], None, 1e-6)
    assert nowhere.passed
    assert (nowhere.compared, nowhere.skipped) == (0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_where_only_the_folded_net_is_not_finite_it_is_wrong(value: float) -> None:
    verdict = judge([difference(np.float32([[1, np.nan]]), np.float32([[value, 1]]))], None, 1e-6)
    assert not verdict.passed
    assert "infinite or NaN where the original is not" in verdict.problem


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_infinity_that_becomes_something_else_but_a_number_is_wrong(value: float) -> None:
    assert not judge([difference(np.float32([[1, np.inf]]), np.float32([[1, value]]))], None, 1e-6).passed


def test_integers_are_compared_exactly_unless_the_original_wavers() -> None:
    one, other = np.arange(10), np.arange(10) + (np.arange(10) == 3)
    found = difference(one, other)
    assert found.problem == "10.00% of the elements differ"
    assert not judge([found], None, 1e-6).passed
    wavering = judge([found], [np.full(1, 0.1)], 1e-6)
    assert wavering.passed
    assert not wavering.problem


def wrapped(kind: str, values: np.ndarray[Any, Any]) -> Any:
    """`values` as the runtimes return them from an output that is no tensor."""
    if kind == "sequence":
        return [np.ones((1, 2), np.float32), values]
    scores = {f"class {n}": float(value) for n, value in enumerate(values.ravel())}
    return scores if kind == "map" else [scores]


@pytest.mark.parametrize("kind", ["sequence", "map", "sequence of maps"])
def test_sequences_and_maps_are_compared_by_element(kind: str) -> None:
    values = np.linspace(1, 2, 3600, dtype=np.float32).reshape(1, 1, 60, 60)  # more than NumPy prints
    fault = values.copy()
    fault[..., 10:50, 10:50] = -7
    first = wrapped(kind, values)

    def passed(second: Any) -> bool:
        return judge([difference(first, second)], [difference(first, first).by], 1e-6).passed

    assert difference(first, first).compared >= values.size
    assert passed(wrapped(kind, values))
    assert passed(wrapped(kind, values * np.float32(1 + 2**-22)))
    assert not passed(wrapped(kind, fault))
    assert not passed(wrapped(kind, fault * np.float32(np.inf)))
    assert not passed(type(first)())
    assert not passed(values)


def test_absent_and_empty_values_that_are_no_tensors() -> None:
    assert not difference(None, None).by.any()
    assert difference(None, np.ones(3)).problem
    assert difference([], []).compared == 0


def test_empty_and_zero_tensors() -> None:
    for shape in ((0,), (2, 0), (2, 0, 3), (1, 3, 2)):
        zeros = np.zeros(shape, np.float32)
        verdict = judge([difference(zeros, zeros)], None, 1e-6)
        assert verdict.passed
        assert (verdict.compared, verdict.skipped) == (zeros.size, 0)
    assert not judge([difference(np.zeros((1, 3)), np.full((1, 3), 1e-30))], None, 1e-6).passed


def test_a_shaken_model_moves_by_units_of_the_last_place_only(net: Net) -> None:
    model = net.original()
    shape = numpy_helper.from_array(np.float32([1, 1, 2, 2]), "scales")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Resize", ["out", "", "scales"], ["large"]))
    data = model.SerializeToString()
    moved = onnx.load_model_from_string(bytes(shaken(data, inspect(data), 0)))
    for before, after in zip(model.graph.initializer, moved.graph.initializer, strict=True):
        one, other = numpy_helper.to_array(before), numpy_helper.to_array(after)
        assert np.allclose(one, other, rtol=1e-6, atol=0)
        assert np.array_equal(one, other) == (before.name == "scales")


def squared_and_enlarged(model: onnx.ModelProto) -> onnx.ModelProto:
    """With `large`, made of `y0` by constants that Constant nodes give."""
    for name, value in {"two": 2, "roi": [], "scales": [1, 1, 2, 2]}.items():
        tensor = numpy_helper.from_array(np.array(value, np.float32))
        constant = helper.make_node("Constant", [], [name], value=tensor)
        model.graph.node.insert(0, constant)
    model.graph.node.append(helper.make_node("Pow", ["y0", "two"], ["square"]))
    model.graph.node.append(helper.make_node("Resize", ["square", "roi", "scales"], ["large"], mode="nearest"))
    return model


def test_constants_that_choose_are_not_shaken(net: Net) -> None:
    data = squared_and_enlarged(net.original()).SerializeToString()
    before, after = (onnx.load_model_from_string(m) for m in (data, bytes(shaken(data, inspect(data), 0))))
    assert before.graph.node == after.graph.node
    assert before.graph.initializer != after.graph.initializer


def test_a_perturbation_that_does_more_than_round_excuses_nothing(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If NaNs, other extents or a refusal to run were taken for the original's own movement, every fault would pass."""
    monkeypatch.setattr("bnfold.verification.inspect.SHAPING", set())
    original = squared_and_enlarged(net.original())
    right, faulty = (squared_and_enlarged(net.folded(how)) for how in ({}, {0: beta_forgotten}))
    assert wrong(judged(original, faulty, ["large"], tmp_path)) == [-1, 0]
    assert not wrong(judged(original, right, ["large"], tmp_path))


@pytest.mark.parametrize(("limit", "proven"), [(1e-3, True), (7.4, False), (0.0, False)])
def test_a_limit_that_lets_nearly_all_pass_or_nothing_there_proves_nothing(limit: float, proven: bool) -> None:
    value = Compared("y", "", min(limit, 1e-4), 1.0, limit)
    assert (value.passed, value.proven) == (True, proven)
    assert ("badly conditioned" in value.remark, "0 everywhere" in value.remark) == (limit > 1, not limit)
    assert Verification(engine="onnxruntime", outputs=[value]).proven == proven


def test_what_lies_beyond_what_could_be_run_is_not_proven() -> None:
    value = Compared("y", "", 0.0, None, 1e-6)
    assert not Verification(engine="onnxruntime", outputs=[value], uncovered=1).proven
