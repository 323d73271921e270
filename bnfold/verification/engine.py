"""What runs a model for the verifier: onnxruntime without any optimisation, else onnx's reference evaluator.

Used inside the verification child only, since it imports onnxruntime, and onnx where that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ..ir.graph import Array

if TYPE_CHECKING:
    import onnx

Feeds = Mapping[str, Array]
Extents = Sequence[int | str | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """An input of a model: its dtype (None where it holds no numbers) and its shape, free extents as names or None."""

    name: str
    dtype: np.dtype[Any] | None
    shape: Extents


class Engine(Protocol):
    """A loaded model; `shapes` are those of its outputs, as far as they are known."""

    name: str
    inputs: list[Input]
    shapes: dict[str, Extents]

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The outputs `names`; raises whatever the engine raises when it cannot."""


class OnnxRuntime:
    """onnxruntime on the CPU, all graph optimisations off: it would fold the original too."""

    name = "onnxruntime"

    def __init__(self, model: bytes, data: Path | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        if data is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [Input(i.name, _runtime_dtype(i.type), i.shape) for i in self._session.get_inputs()]
        self.shapes = {o.name: o.shape for o in self._session.get_outputs()}

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The outputs of the names, for one set of inputs."""
        return list(self._session.run(list(names), dict(feeds)))


class Reference:
    """onnx.ReferenceEvaluator: slow, and able to run what onnxruntime has no kernel for."""

    name = "onnx.ReferenceEvaluator"

    def __init__(self, model: bytes, data: Path | None) -> None:
        import onnx.external_data_helper
        import onnx.numpy_helper
        from onnx.reference import ReferenceEvaluator

        proto = onnx.load_model_from_string(model)
        if data is not None:
            onnx.external_data_helper.load_external_data_for_model(proto, str(data))
        opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
        old = [_inference_batch_normalization()] * (opset < 14) + _aligned_arithmetic() * (opset < 7)
        self._evaluator = ReferenceEvaluator(proto, new_ops=old or None)
        constants = {t.name: t for t in proto.graph.initializer}
        self.inputs = [_declared(i) for i in proto.graph.input if i.name not in constants]
        self.shapes = {o.name: _declared(o).shape for o in proto.graph.output}
        given = [constants[i.name] for i in proto.graph.input if i.name in constants]
        self._defaults = {t.name: onnx.numpy_helper.to_array(t) for t in given}

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The outputs of the names, for one set of inputs."""
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


def _aligned_arithmetic() -> list[Any]:
    """Add, Sub, Mul and Div before opset 7, which onnx evaluates without a look at where `axis` aligns an operand."""
    from onnx.reference.op_run import OpRun

    def aligned(function: Callable[[Array, Array], Array]) -> Any:
        def run(_: Any, x: Array, y: Array, **attributes: Any) -> tuple[Array]:
            axis = attributes.get("axis")
            missing = 0 if axis is None else x.ndim - axis % x.ndim - y.ndim
            return (function(x, y.reshape(y.shape + (1,) * missing)).astype(x.dtype),)

        return run

    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    return [type(op, (OpRun,), {"op_domain": "", "_run": aligned(function)}) for op, function in functions.items()]


def first_working(makers: Iterable[Callable[[], T]]) -> tuple[T | None, list[str]]:
    """The result of the first maker that raises nothing, and in a line each why those before it failed."""
    reasons: list[str] = []
    for make in makers:
        try:
            return make(), reasons
        except Exception as error:  # engines raise their own classes, which have nothing in common
            reasons.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    return None, reasons
