"""What runs a model for the verifier: onnxruntime without any optimisation, else onnx's reference evaluator.

Used inside the verification child only, since it imports onnxruntime, and onnx where that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
T = TypeVar("T")

FIXED_BY_VALUE = {"Range", "Resize", "Upsample", "TopK", "OneHot", "NonMaxSuppression"}
"""Operators that turn the value of a constant into a shape or a choice: such a constant is never perturbed."""


@dataclass(frozen=True)
class Input:
    """An input of a model: its dtype (None where it holds no numbers) and its shape, free extents as names or None."""

    name: str
    dtype: np.dtype[Any] | None
    shape: Sequence[int | str | None]


class Engine(Protocol):
    """A loaded model."""

    name: str
    inputs: list[Input]
    shapes: dict[str, Sequence[int | str | None]]

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The outputs `names`; raises whatever the engine raises when it cannot."""


class OnnxRuntime:
    """onnxruntime on the CPU, all graph optimisations off: it would fold the original too."""

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, data: Path | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        if data is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data))
            model = model.read_bytes() if isinstance(model, Path) else model
        source = str(model) if isinstance(model, Path) else model
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self.inputs = [Input(i.name, _runtime_dtype(i.type), i.shape) for i in self._session.get_inputs()]
        self.shapes = {o.name: o.shape for o in self._session.get_outputs()}

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        result: list[Any] = self._session.run(list(names), dict(feeds))
        return result


class Reference:
    """onnx.ReferenceEvaluator: slow, and able to run what onnxruntime has no kernel for."""

    name = "onnx.ReferenceEvaluator"

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator

        opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._evaluator = ReferenceEvaluator(model, new_ops=[_inference_batch_normalization()] if opset < 14 else None)
        constants = {t.name for t in model.graph.initializer}
        self.inputs = [_declared(i) for i in model.graph.input if i.name not in constants]
        self.shapes = {o.name: _declared(o).shape for o in model.graph.output}
        self._defaults = {
            t.name: _numbers(t) for t in model.graph.initializer if t.name in {i.name for i in model.graph.input}
        }

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        with np.errstate(all="ignore"):
            return list(self._evaluator.run(list(names), {**self._defaults, **feeds}))


def _runtime_dtype(kind: str) -> np.dtype[Any] | None:
    """`tensor(float)` and its like as a dtype; None for strings, sequences, maps and types that NumPy lacks."""
    names = {"float": "float32", "double": "float64"}
    inner = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return None if inner == "string" else np.dtype(names.get(inner, inner))
    except TypeError:
        return None


def _declared(value: onnx.ValueInfoProto) -> Input:
    import onnx.helper

    tensor = value.type.tensor_type
    known = tensor.elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) if known else None
    return Input(value.name, dtype, [d.dim_param or d.dim_value or None for d in tensor.shape.dim])


def _inference_batch_normalization() -> Any:
    """BatchNormalization before opset 14, which onnx evaluates with the statistics of the batch from opset 7 on."""
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(self, x: Array, *parameters: Array, **attributes: Any) -> tuple[Array]:
            a, b, m, v = (t if t.ndim > 1 else t.reshape(-1, *(1,) * (x.ndim - 2)) for t in parameters)
            if attributes.get("is_test") == 0:  # opset 6 only: the statistics of the batch
                axes = tuple(i for i in range(x.ndim) if i != 1)
                m, v = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            return ((a * (x - m) / np.sqrt(v + attributes["epsilon"]) + b).astype(x.dtype),)

    return BatchNormalization


def load(model: Path, data: Path | None) -> onnx.ModelProto:
    """The model for onnx's tools, with its external data and without what only onnxruntime trips over.

    That is: names of nodes (twice the same is refused), and empty names at the end of a node's outputs (1.32 crashes).
    """
    import onnx.external_data_helper

    proto = onnx.load(str(model), load_external_data=False)
    if data is not None:
        onnx.external_data_helper.load_external_data_for_model(proto, str(data))
    for node in _nodes(proto):
        node.ClearField("name")
        while node.output and not node.output[-1]:
            del node.output[-1]
    return proto


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies and functions too."""
    pending: list[Iterable[onnx.NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(a.g.node for a in node.attribute if a.HasField("g"))


def perturbed(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy in which each constant floating-point number is one unit of its last place more or less, at random."""
    import onnx.numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)
    fixed = {name for node in _nodes(copy) if node.op_type in FIXED_BY_VALUE for name in node.input}
    tensors = [t for t in copy.graph.initializer if t.name not in fixed]
    for node in _nodes(copy):
        tensors += [t for a in node.attribute if a.HasField("g") for t in a.g.initializer if t.name not in fixed]
        if node.op_type == "Constant" and not fixed.intersection(node.output):
            tensors += [a.t for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        values = _numbers(tensor)
        if spacing(values.dtype):
            tensor.CopyFrom(onnx.numpy_helper.from_array(jitter(values, rng), tensor.name))
    return copy


def jitter(values: Array, rng: np.random.Generator) -> Array:
    """Each number one unit of its last place up or down; 0 stays 0."""
    signs = rng.integers(0, 2, values.shape, dtype=np.int8) * 2 - 1
    wide = values.astype(np.float64) if spacing(values.dtype) < 1e-7 else values.astype(np.float32)
    with np.errstate(all="ignore"):
        return (wide * (1 + spacing(values.dtype) * signs)).astype(values.dtype)


def _numbers(tensor: onnx.TensorProto) -> Array:
    import onnx.numpy_helper

    return onnx.numpy_helper.to_array(tensor)


def spacing(dtype: np.dtype[Any]) -> float:
    """The distance from 1 to the next larger number of a floating-point dtype (bfloat16 too); 0 for other dtypes."""
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    return {"bfloat16": 2.0**-7}.get(dtype.name, 0.0)


def first_working(makers: Iterable[Callable[[], T]]) -> tuple[T | None, list[str]]:
    """The result of the first maker that raises nothing, and in a line each why those before it failed."""
    reasons: list[str] = []
    for make in makers:
        try:
            return make(), reasons
        except Exception as error:  # engines raise their own classes, which have nothing in common
            reasons.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    return None, reasons
