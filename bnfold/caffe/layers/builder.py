"""What the description of a layer type sees while it writes ONNX nodes: its layer, its bottoms, its blobs.

A description calls `node` for each operator and returns the values of its tops. Constants may stand among the inputs
as they are: a float or an array of float32, a list of integers as int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import numpy as np

from ...errors import InputError
from ...ir.graph import Array, Graph, Node, Shape, Tensor, Value
from ...ir.names import Names
from ...ir.shapes.table import infer
from ...planner.foldable import AFFINE
from ...planner.records import Notice
from .. import caffe_pb2 as pb
from ..net import Layer
from .reading import Reading

FLOAT, INT64 = np.dtype(np.float32), np.dtype(np.int64)
Operand = Value | Array | float | Sequence[int] | None
MOST = (1 << 31) - 1
"""Elements in a blob, which Caffe counts in an int."""
_REMOVABLE = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "Neg", "Sub"}
)


class Unknown(Exception):  # noqa: N818  it is no fault
    """The layer cannot be described without something that is not known here; the text says what."""


class Builder:
    """Appends the nodes of one layer to a graph.

    `fixed` is set on the nodes that look like affines or linear operators: True where they are a part of a layer that
    stays as a whole. `order` is the user's order of BatchNorm blobs, "" if none was given. What the user has to know
    goes to `notices`.
    """

    def __init__(
        self,
        graph: Graph,
        layer: Layer,
        bottoms: Sequence[Value],
        *,
        opset: int,
        names: Names,
        constants: dict[Hashable, Value],
        fixed: bool = True,
        order: str = "",
        notices: list[Notice] | None = None,
    ) -> None:
        self.graph = graph
        self.layer = layer
        self.bottoms = list(bottoms)
        self.opset = opset
        self.fixed = fixed
        self.order = order
        self.notices = notices if notices is not None else []
        self.order_fits = False
        self.nodes: list[Node] = []
        self._reading = Reading(layer.param)
        self._names = names
        self._constants = constants

    @property
    def param(self) -> pb.LayerParameter:
        """The layer's parameters; which of their messages the description reads is remembered for `check_read`."""
        return cast(pb.LayerParameter, self._reading)

    def check_read(self) -> None:
        """Raises Unknown for a message of the layer that its description has not read, where that may matter."""
        if name := self._reading.unread():
            raise Unknown(f"what `{name}` means to type {self.layer.type} is not known")

    @property
    def x(self) -> Value:
        """The first bottom."""
        return self.bottoms[0]

    def fail(self, what: str, hint: str = "") -> InputError:
        """An InputError at the layer."""
        return InputError(what, where=self.layer.where, hint=hint)

    def hold(self, code: str, sentence: str) -> None:
        """Let the weights of this linear layer take no affine; `sentence` says why, behind the layer's name."""
        self.graph.held[self.layer] = (code, sentence)

    def keep_quantized(self, tops: Sequence[Value]) -> None:
        """A layer with stored quantisation scales stays as it is, and so do its blobs, which they were measured for."""
        what = "has stored quantisation scales (quantization_param), measured for what it is"
        self.hold("quantization-scales", what)
        for value in (*self.bottoms, *tops):
            value.public = value.public or f"a blob of layer {self.layer.name!r}, which {what}"
            value.note = value.note or ("quantization-scales", "")
        if any(node.op in AFFINE and not node.fixed for node in self.nodes):
            self.graph.notes[self.layer] = ("quantization-scales", f"{self.layer.type} {self.layer.name!r} {what}")
        for node in self.nodes:
            node.fixed = node.fixed or node.op in AFFINE

    def notice(self, code: str, sentence: str, hint: str = "", *, strict: bool = False) -> None:
        """Tell the user something of the layer; `strict`: where the user is strict it is a fault."""
        self.notices.append(Notice(code, sentence, self.layer.where, hint, strict))

    # ------------------------------------------------------------------------------------------------------- nodes

    def node(self, op: str, *inputs: Operand, **attributes: Any) -> Value:
        """Append an operator with one output, and return that."""
        return self.nodes_of(op, inputs, 1, **attributes)[0]

    def nodes_of(self, op: str, inputs: Sequence[Operand], count: int, **attributes: Any) -> list[Value]:
        """Append an operator with `count` outputs."""
        outputs = [Value(self._names.unique(f"{self.layer.name}/{op}")) for _ in range(count)]
        values = [self._operand(item) for item in inputs]
        node = self.graph.add_node(
            op, values, outputs, attributes, origin=self.layer, name=self.layer.name, version=self.opset
        )
        node.fixed = self.fixed and op in _REMOVABLE
        self.nodes.append(node)
        infer(node)
        if node.contradiction:
            raise self.fail(f"its bottoms, blobs and parameters do not fit together: in {op}, {node.contradiction}")
        for value in outputs:
            self.limited(value.shape)
        return outputs

    def add_output(self, node: Node) -> Value:
        """A further output of a node."""
        value = Value(self._names.unique(f"{self.layer.name}/{node.op}"), producer=node)
        node.outputs.append(value)
        infer(node)
        return value

    def _operand(self, item: Operand) -> Value | None:
        if item is None or isinstance(item, Value):
            return item
        if isinstance(item, np.ndarray):
            return self.constant(item)
        if isinstance(item, float):
            return self.constant(np.array(item, FLOAT))
        if max(map(abs, item), default=0) > MOST + 1:
            raise self.fail(f"a size or place among {list(item)} is larger than any blob")
        return self.constant(np.array(item, INT64))

    def constant(self, array: Array) -> Value:
        """A constant that stands in no file."""
        name = self._names.unique(f"{self.layer.name}/constant")
        tensor = Tensor(("made", name), array.shape, array.dtype, lambda: array)
        return Value(name, array.shape, array.dtype, tensor=tensor)

    def fill(self, shape: tuple[int, ...], value: float) -> Value:
        """A float32 constant of `shape` that is `value` everywhere."""
        return self.constant(np.full(shape, value, FLOAT))

    # -------------------------------------------------------------------------------------------------- parameters

    def positive(self, **fields: float) -> None:
        """Raises InputError where a field of the prototxt is not above 0, or not finite."""
        for name, value in fields.items():
            if not 0 < value < math.inf:
                raise self.fail(f"{name} must be positive and is {value}")

    def finite(self, **fields: float) -> None:
        """Raises InputError where a field of the prototxt is infinite or NaN."""
        for name, value in fields.items():
            if not math.isfinite(value):
                raise self.fail(f"{name} is {value}")

    def limited(self, shape: Shape | None) -> None:
        """Raises InputError for a shape with a negative extent, or of more elements than Caffe can count."""
        known = [extent for extent in shape or () if extent is not None]
        if min(known, default=0) < 0 or max([math.prod(known), *known]) > MOST:
            raise self.fail(f"a blob of {'×'.join(map(str, known))} elements is larger than any, or negative")

    # ------------------------------------------------------------------------------------------------------- blobs

    def want_blobs(self, count: int) -> None:
        """Raises InputError unless the layer has `count` blobs."""
        have = len(self.layer.blobs)
        if not have and count:
            raise self.fail(
                "the layer has no weights", f"type {self.layer.type} needs them; is this the caffemodel of this net?"
            )
        if have != count:
            raise self.fail(f"the layer has {have} blobs where type {self.layer.type} with its parameters has {count}")

    def want_axes(self, index: int, least: int) -> tuple[int, ...]:
        """The shape of a blob. Raises InputError unless it has `least` axes and no extent is 0."""
        shape = self.layer.blobs[index].shape
        if len(shape) < least or 0 in shape:
            raise self.fail(f"blob {index} has shape {shape} in the caffemodel; it needs {least} axes, and elements")
        return shape

    def blob(self, index: int, fits: tuple[int, ...] | None = None, shape: tuple[int, ...] | None = None) -> Value:
        """The stored blob as a constant of `shape`, by default `fits`: what Caffe's parameter of that shape accepts."""
        if fits is not None:
            self._share(index, fits)
        blob = self.layer.blobs[index]
        if fits is not None and not blob.fits(fits):
            raise self.fail(f"blob {index} has shape {blob.shape} in the caffemodel and the layer wants {fits}")
        shape = shape if shape is not None else fits if fits is not None else blob.shape
        return self.derived(("blob", blob.field.start), str(index), shape, blob.dtype, blob.array)

    def _share(self, index: int, wanted: tuple[int, ...]) -> None:
        """Bring a blob that was stored by another layer, which shares it, into the shape that this one wants.

        As Net::AppendParam of BVLC: the first layer of a name gives the shape, which those that share by count need
        not have. Raises InputError for a shape that Caffe refuses.
        """
        layer = self.layer
        layer.wanted[index] = wanted
        owner, at = layer.owners.get(index, (layer, index))
        permissive = index in layer.owners and layer.param.param[index].share_mode == pb.ParamSpec.PERMISSIVE
        first = owner.wanted.get(at, wanted)
        if first != wanted and not (permissive and math.prod(first) == math.prod(wanted)):
            name = f"shares {layer.shared[index]!r} with layer {owner.name!r}"
            counts = math.prod(first) != math.prod(wanted)
            raise self.fail(
                f"blob {index} {name} and has shape {wanted}, where that of layer {owner.name!r} has shape {first}",
                "they have not as many elements" if counts else "`share_mode: PERMISSIVE` in the `param` allows that",
            )
        blob, may = layer.blobs[index], index in layer.foreign and (permissive or owner is layer)
        if may and not blob.fits(wanted) and blob.count == math.prod(wanted):
            layer.blobs[index] = blob.in_shape(wanted)

    def derived(
        self, key: Hashable, label: str, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], Array]
    ) -> Value:
        """A float32 constant computed from blobs when it is needed; its Tensor keeps the precision of `load`."""
        if (key, shape) not in self._constants:
            tensor = Tensor(key, shape, dtype, lambda: load().reshape(shape))
            name = self._names.unique(f"{self.layer.name}.{label}")
            self._constants[key, shape] = Value(name, shape, FLOAT, tensor=tensor)
        return self._constants[key, shape]

    # ------------------------------------------------------------------------------------------------------ shapes

    def dims(self, value: Value) -> Shape:
        """The shape, its rank being known. Raises Unknown."""
        if value.shape is None:
            raise Unknown(f"the shape of blob {value.name} is not known")
        return value.shape

    def extent(self, value: Value, axis: int) -> int:
        """The extent of a value along `axis`. Raises InputError without that axis, Unknown where the extent is open."""
        shape = self.dims(value)
        if axis >= len(shape):
            raise self.fail(f"type {self.layer.type} needs axis {axis} and blob {value.name} has shape {shape}")
        extent = shape[axis]
        if extent is None:
            raise Unknown(f"the extent of axis {axis} of blob {value.name} is not fixed")
        return extent

    def known(self, value: Value) -> tuple[int, ...]:
        """The shape, all of it being known. Raises Unknown."""
        return tuple(self.extent(value, axis) for axis in range(len(self.dims(value))))

    def axis(self, value: Value, axis: int, end: bool = False) -> int:
        """`axis` counted from the front, as Caffe's CanonicalAxisIndex; `end` allows one behind the last."""
        rank = len(self.dims(value))
        if not -rank <= axis < rank + end:
            raise self.fail(f"axis {axis} is out of range for blob {value.name} of shape {value.shape}")
        return axis + rank if axis < 0 else axis

    def rank4(self, value: Value) -> Shape:
        """The shape of a value that Caffe takes as num, channels, height, width only."""
        shape = self.dims(value)
        if len(shape) != 4:
            raise self.fail(f"type {self.layer.type} needs 4 axes and its bottom {value.name} has shape {shape}")
        return shape

    def reshape(self, value: Value, shape: Sequence[int | None]) -> Value:
        """The value in another shape, in which at most one extent (that of a batch) is unknown."""
        if value.shape == tuple(shape):
            return value
        if sum(extent is None for extent in shape) > 1:
            raise Unknown(f"the shape of blob {value.name} is not fixed")
        return self.node("Reshape", value, [-1 if extent is None else extent for extent in shape])

    def same_shapes(self) -> None:
        """Raises InputError when two bottoms are known to differ in shape, Unknown when one alone has an open batch."""
        first = self.x.shape
        for other in self.bottoms[1:]:
            if first is None or other.shape is None:
                continue
            if not _may_equal(first, other.shape):
                raise self.fail(f"bottoms {self.x.name} {first} and {other.name} {other.shape} must have one shape")
            if first and None in (first[0], other.shape[0]) and max(first[0] or 0, other.shape[0] or 0) > 1:
                raise Unknown(f"the batch of {self.x.name} {first} and of {other.name} {other.shape} must be one")


def _may_equal(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(p == q or p is None or q is None for p, q in zip(a, b, strict=True))
