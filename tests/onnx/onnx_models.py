"""Small ONNX models for the tests, and folding them in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bnfold.onnx.document import OnnxDocument
from bnfold.planner.passes import plan

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, list("nchw"))
MATRIX = helper.make_tensor_value_info("y", TensorProto.FLOAT, list("mn"))


def tensor(name: str, *shape: int, dtype: Any = np.float32, seed: int = 0) -> onnx.TensorProto:
    """Values between 0.5 and 1.5, different for each name."""
    rng = np.random.default_rng([seed, *name.encode()])
    return numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(dtype), name)


def norm(prefix: str, channels: int, **how: Any) -> list[onnx.TensorProto]:
    return [tensor(prefix + suffix, channels, **how) for suffix in (".g", ".b", ".m", ".v")]


def batch_norm(source: str, prefix: str, target: str, **attributes: Any) -> onnx.NodeProto:
    names = [f"{prefix}.{suffix}" for suffix in "gbmv"]
    return helper.make_node("BatchNormalization", [source, *names], [target], name=prefix, **attributes)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names separated by spaces; `_` is an omitted one."""
    names = [["" if name == "_" else name for name in names.split()] for names in (inputs, outputs)]
    return helper.make_node(op, *names, name=attributes.pop("name", f"n_{names[1][0]}"), **attributes)


def model(nodes: Any, constants: Any = (), inputs: Any = (X,), outputs: Any = (Y,), **how: Any) -> onnx.ModelProto:
    """`how`: opset, ir_version, functions, domains (besides the standard one), value_info, sparse."""
    more = {name: how.pop(name) for name in ("value_info", "sparse_initializer") if name in how}
    graph = helper.make_graph(nodes, "net", list(inputs), list(outputs), list(constants), **more)
    domains = [helper.make_opsetid("", how.pop("opset", 17))]
    domains += [helper.make_opsetid(name, 1) for name in how.pop("domains", ())]
    return helper.make_model(graph, opset_imports=domains, ir_version=how.pop("ir_version", 8), **how)


def conv_bn(**how: Any) -> onnx.ModelProto:
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "bn", "n"), node("Relu", "n", "y")]
    return model(nodes, [tensor("W", 3, 2, 3, 3), *norm("bn", 3)], **how)


def written(document: OnnxDocument, plans: Any, out: str = "folded.onnx") -> bytes:
    stream = io.BytesIO()
    document.folded(plans, [Path(out)])[Path(out)].write(stream)
    return stream.getvalue()


def unchanged(data: bytes) -> bytes:
    return written(OnnxDocument.from_bytes(data), {})


def fold_bytes(data: bytes, **how: Any) -> bytes:
    document = OnnxDocument.from_bytes(data, **how)
    return written(document, {graph: plan(graph, document.style) for graph in document.graphs()})


def fold(source: onnx.ModelProto, **how: Any) -> onnx.ModelProto:
    """Folded; checked to be valid, and to be the same when it is folded again."""
    data = fold_bytes(source.SerializeToString(), **how)
    assert fold_bytes(data, **how) == data
    result = onnx.load_model_from_string(data)
    onnx.checker.check_model(source)
    onnx.checker.check_model(result)
    return result


def run(proto: onnx.ModelProto | bytes, feeds: dict[str, Any] | None = None) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(bool)": np.bool_}
    given = dict(feeds or {})
    for value in session.get_inputs():
        if value.name not in given:
            given[value.name] = rng.standard_normal(value.shape).astype(types[value.type])
    found: list[Any] = session.run(None, given)
    return found


def same(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Any] | None = None) -> None:
    """The two compute the same, but for rounding."""
    for one, other in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(np.abs(one).max(initial=1)))


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def constants(proto: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
