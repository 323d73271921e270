"""The inputs of a net: what is missing, what the user gave, and what the weights say of an open shape."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import InputError, UsageError
from ..ir.graph import Value
from .net import CaffeNet, Layer

_OPTIONS = {
    "stage": "--stage", "not_stage": "--stage", "phase": "--phase", "min_level": "--level", "max_level": "--level"
}  # fmt: skip


def missing(net: CaffeNet, layer: Layer, name: str) -> InputError:
    """The error for a bottom that no layer before makes; where an inactive one does, it says so."""
    makers = [other for other in net.inactive if name in other.tops]
    hint = ""
    if makers:
        rules = [rule for maker in makers for rule in (*maker.param.include, *maker.param.exclude)]
        fields = {field.name for rule in rules for field, _ in rule.ListFields()}
        options = dict.fromkeys(option for name, option in _OPTIONS.items() if name in fields)
        hint = f"layer {makers[0].name!r} makes it, which its rules leave out; see {' and '.join(options)}"
    return InputError(f"no layer before makes the bottom blob {name!r}", where=layer.where, hint=hint)


def check_given(names: Collection[str], inputs: Iterable[Value]) -> None:
    """Raises UsageError where the user gave the shape of what is no input."""
    found = sorted(value.name for value in inputs)
    for name in names:
        if name not in found:
            raise UsageError(f"the net has no input {name!r}", hint=f"its inputs are {', '.join(found) or 'none'}")


def settle_channels(value: Value) -> None:
    """Give an input whose shape or channels the file leaves open what the weights that read it say of them."""
    for node in value.readers:
        weight = node.constant(1)
        if weight is None or node.op not in ("Conv", "ConvTranspose", "BatchNormalization"):
            continue
        groups = int(node.attribute("group", 1)) if node.op == "Conv" else 1
        channels = weight.shape[1 if node.op == "Conv" else 0] * groups
        if value.shape is None:  # of an image, where the weights do not say
            value.shape = (None, channels, *(None,) * (2 if len(weight.shape) == 1 else len(weight.shape) - 2))
        elif value.shape[1:2] == (None,):
            value.shape = (value.shape[0], channels, *value.shape[2:])
