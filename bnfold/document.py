"""What the pipeline needs of a document: Caffe's pair of files and an ONNX model answer the same few questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .ir.graph import Graph, Value
from .planner.records import Notice, Opaque, Plan, Style
from .protobuf import Rope


@dataclass(frozen=True, slots=True)
class Runnable:
    """An ONNX model that onnxruntime can run: the verifier's view of a document.

    `model` is the serialized ModelProto. `outputs` are the net's; `probes` the values asked for that exist, each an
    output of the model under the name by which it was asked for. `data` is the folder in which external data lies.
    `left_out` names the nodes that could not be converted: what depends on them is not among the outputs.
    `spell` says how the model writes each of the names in `outputs` and `probes`.
    """

    model: Rope
    outputs: list[str]
    probes: list[str]
    data: Path | None = None
    left_out: list[str] = field(default_factory=list)
    spell: Callable[[str], str] = str


class Document(Protocol):
    """A model read from files. Nothing in it changes; a plan is applied to what is written."""

    @property
    def sources(self) -> Sequence[Path]:
        """The files that it was read from."""

    @property
    def style(self) -> Style:
        """What affines cost in this document, and in which form it writes one."""

    def graphs(self) -> Sequence[Graph]:
        """The graphs to plan, each on its own: the net; for ONNX also the bodies of control flow and functions."""

    def counts(self) -> Mapping[str, int]:
        """Layers (nodes) by type, and "parameters": the number of constants' elements that the net reads."""

    def opaque(self) -> Sequence[Opaque]:
        """The layers that are not understood."""

    def notices(self) -> Sequence[Notice]:
        """What the user has to know of the files."""

    def places(self, out: Path | None) -> Sequence[Path]:
        """The files of a result that the user named `out`, the model's first; None: in the place of what was read."""

    def folded(self, plans: Mapping[Graph, Plan], places: Sequence[Path]) -> Mapping[Path, Rope]:
        """The content of each of the files `places`. Raises OutputError where one is something else already."""

    def runnable(self, probes: Sequence[str]) -> Runnable:
        """The net as ONNX with the values that `probes` name as further outputs."""

    def probe(self, value: Value) -> str:
        """A name under which `runnable` of this document finds `value`; "" when it has none."""

    def folded_probe(self, plan: Plan, value: Value) -> str:
        """A name under which `runnable` of the folded document finds what `value` has become; "" when it vanished."""
