"""How a model is read, and what is asked of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is read, and what is asked of the result.

    `phase` ("TEST" or "TRAIN"; None is TEST), `stages`, `level` (None is 0): which layers of a Caffe net are active.
    `bn_blobs`: the order of the blobs of BatchNorm layers, where the file leaves it open. `keep`: values that keep name
    and content. `freeze`: take initializers that are also inputs of an ONNX model (IR version 4 or later) for
    constants. `inputs`: shapes of inputs of a Caffe net, as (name, shape) pairs. `fold_quantized`: fold also into
    layers with stored quantisation scales. `strict`: a BatchNorm that stays, or may be read in another way, is an
    error. `verify`: prove the result before it is put in place. `onnx`: write the folded Caffe net as ONNX too.
    `in_place`: the result may replace the model that was read.

    Raises UsageError for another phase, for words that are no blobs, and for a text where a tuple of names is needed;
    a model of one format raises it for options of the other.
    """

    phase: Literal["TEST", "TRAIN"] | None = None
    stages: tuple[str, ...] = ()
    level: int | None = None
    keep: tuple[str, ...] = ()
    freeze: bool = False
    bn_blobs: str | None = None
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    fold_quantized: bool = False
    strict: bool = False
    verify: bool = True
    onnx: bool = False
    in_place: bool = False

    def __post_init__(self) -> None:
        if self.phase not in (None, "TEST", "TRAIN"):
            raise UsageError(f"phase {self.phase!r} is neither TEST nor TRAIN")
        if self.bn_blobs is not None:
            from .caffe.layers.batchnorm import read_order

            read_order(self.bn_blobs)
        for name in ("stages", "keep"):
            if isinstance(text := getattr(self, name), str):
                raise UsageError(f"{name} is a tuple of names, not a text", hint=f"such as {name}=({text!r},)")


CAFFE_ONLY = {
    "phase": "--phase", "stages": "--stage", "level": "--level", "bn_blobs": "--bn-blobs", "onnx": "--onnx",
    "inputs": "--input", "fold_quantized": "--fold-quantized",
}  # fmt: skip
ONNX_ONLY = {"freeze": "--freeze"}


def check_apply(options: Options, words: Mapping[str, str], told: str) -> None:
    """Raises UsageError where one of the options `words`, which mean nothing for this model, is given."""
    for name, word in words.items():
        value = getattr(options, name)
        if value is not None and value is not False and value != ():
            raise UsageError(f"{word} {told}", hint=f"leave {word} out")


DEFAULTS = Options()
