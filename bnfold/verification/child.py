"""The verification's own process: reads a request on stdin, runs both nets, and writes the answer to a file.

    request: {"original": SIDE, "folded": SIDE, "names": [[original's, folded's], ...], "outputs": N,
              "engine": "" or "reference", "answer": PATH};    SIDE: {"model": PATH, "data": FOLDER or null}
    answer:  {"reason": WHY} where the original cannot be run, else
             {"engine", "note", "draws", "problem", "verdicts": [VERDICT, ...]}, a Verdict for each name in that order

The first N names are the net's outputs; the others lie inside it, from its inputs towards its outputs.
A crash of the runtime, or its greed for memory, ends this process and not the caller's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine, OnnxRuntime, Reference, first_working
from .inputs import Feeds, draws, jittered
from .inspect import Inspection, inspect, shaken
from .judge import Channels, Difference, Verdict, difference, floor, judge

BUDGET = 1 << 28
"""Bytes of a net's values that are held at once."""
PERTURBATIONS = 8
ORIGINAL, FOLDED = 0, 1

Make = Callable[[bytes, Path | None], Engine]


@dataclass(frozen=True)
class Side:
    """One of the two nets: the file of the model, and the folder of its external data."""

    model: Path
    data: Path | None

    def load(self, make: Make) -> Engine:
        """The engine with the model loaded."""
        return make(self.model.read_bytes(), self.data)

    @functools.cached_property
    def inspection(self) -> Inspection:
        """What is to be known of the model, found once."""
        return inspect(self.model.read_bytes())

    def perturbed(self, make: Make, seed: int) -> Engine:
        """The net with its constants shaken; external data stays as it is."""
        return make(bytes(shaken(self.model.read_bytes(), self.inspection, seed)), self.data)


@dataclass
class Trial:
    """The original, which runs on the inputs `draws`, and the pairs of names to compare."""

    original: Side
    make: Make
    engine: Engine
    draws: list[Feeds]
    names: list[tuple[str, str]]
    outputs: int
    kept: dict[tuple[int, int], Any] = field(default_factory=dict)

    def against(self, side: Side) -> list[Verdict]:
        """A verdict for each pair of names."""
        fraction = min(self.original.inspection.fraction, side.inspection.fraction)
        inner = len(self.names) - self.outputs
        floors = [floor(fraction, depth) for depth in [inner + 1] * self.outputs + list(range(1, inner + 1))]
        found = self._differences(range(len(self.names)), side.load(self.make), FOLDED, self.draws)
        verdicts = [judge(found[n], None, limit) for n, limit in enumerate(floors)]
        doubtful = [n for n, verdict in enumerate(verdicts) if not verdict.passed]
        for noises in self._movements(doubtful):
            for n in doubtful:
                verdicts[n] = judge(found[n], noises[n], floors[n])
            if all(verdicts[n].passed for n in doubtful):
                break
        return verdicts

    def _movements(self, numbers: list[int]) -> Iterator[dict[int, list[Channels]]]:
        """How far the original's values move by themselves, a draw; the largest so far, after each perturbation.

        Over all channels where the net rounds to steps: it takes another step here and there.
        """
        noises = {n: [np.zeros(1) for _ in self.draws] for n in numbers}
        for seed in range(PERTURBATIONS if numbers else 0):
            for n, found in self._movement(numbers, seed).items():
                by = [f.by.max(keepdims=True) if self.original.inspection.quantised else f.by for f in found]
                noises[n] = [np.maximum(old, new) for old, new in zip(noises[n], by, strict=True)]
            yield noises

    def _movement(self, numbers: Sequence[int], seed: int) -> dict[int, list[Difference]]:
        """Of one perturbation; nothing where it does more than round: stops the net, changes an extent, makes a NaN."""
        feeds = [jittered(given, seed) for given in self.draws]
        try:
            moved = self.original.perturbed(self.make, seed)
            found = self._differences(numbers, moved, ORIGINAL, feeds)
        except Exception:  # engines raise their own classes, which have nothing in common
            return {}
        bounded = all(np.isfinite(f.by).all() for differences in found.values() for f in differences)
        return found if bounded else {}

    def _differences(
        self, numbers: Sequence[int], other: Engine, side: int, feeds: Sequence[Feeds]
    ) -> dict[int, list[Difference]]:
        """Of the values under the names `numbers` to those of `other` fed with `feeds`, for each draw."""
        found: dict[int, list[Difference]] = {n: [] for n in numbers}
        for draw, (own, others) in enumerate(zip(self.draws, feeds, strict=True)):
            for some in self._portions(numbers, own):
                ones = self._originals(draw, some)
                twos = other.run([self.names[n][side] for n in some], others)
                for n, one, two in zip(some, ones, twos, strict=True):
                    found[n].append(difference(one, two))
        return found

    def _originals(self, draw: int, numbers: list[int]) -> list[Any]:
        """The original's values under the names `numbers`; all are kept if they may be held at once."""
        if any((draw, n) not in self.kept for n in numbers):
            values = self.engine.run([self.names[n][ORIGINAL] for n in numbers], self.draws[draw])
            if len(numbers) < len(self.names):
                return values
            self.kept |= {(draw, n): value for n, value in zip(numbers, values, strict=True)}
        return [self.kept[draw, n] for n in numbers]

    def _portions(self, numbers: Sequence[int], feeds: Feeds) -> Iterator[list[int]]:
        """`numbers` in runs whose values take about `BUDGET` bytes; an extent that nobody knows counts as 64."""
        known = {d: feeds[i.name].shape[axis] for i in self.engine.inputs for axis, d in enumerate(i.shape)}
        portion: list[int] = []
        room = BUDGET
        for n in numbers:
            shape = self.engine.shapes[self.names[n][ORIGINAL]]
            size = 8 * math.prod(d if isinstance(d, int) else known.get(d, 64) for d in shape)
            if portion and size > room:
                yield portion
                portion, room = [], BUDGET
            portion.append(n)
            room -= size
        if portion:
            yield portion


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer, from the first engine that runs the original."""
    original, folded = (
        Side(Path(side["model"]), Path(side["data"]) if side["data"] else None)
        for side in (request["original"], request["folded"])
    )
    names = [(one, other) for one, other in request["names"]]
    outputs: int = request["outputs"]

    def trial(make: Make) -> Trial:
        engine = original.load(make)
        return Trial(original, make, engine, draws(engine, [one for one, _ in names[: outputs or 1]]), names, outputs)

    makers: list[Make] = [Reference] if request["engine"] else [OnnxRuntime, Reference]
    begun, reasons = first_working([functools.partial(trial, make) for make in makers])
    if begun is None:
        return {"reason": "; ".join(dict.fromkeys(reasons))}
    note = "".join(reasons)
    told = {"engine": begun.engine.name, "note": note, "draws": len(begun.draws), "problem": "", "verdicts": []}
    try:
        return told | {"verdicts": [dataclasses.asdict(verdict) for verdict in begun.against(folded)]}
    except Exception as error:  # the original ran: whatever the engine says is about the folded net
        return told | {"problem": (str(error).strip() or type(error).__name__).splitlines()[0]}


def answer_request() -> None:
    """Answer the one request on stdin."""
    with contextlib.suppress(ImportError):  # it is told when it is asked for
        import onnxruntime  # noqa: F401  # loaded while the caller is still folding

    line = sys.stdin.readline()
    if line:
        request = json.loads(line)
        Path(request["answer"]).write_text(json.dumps(_answer(request)), encoding="utf-8")


if __name__ == "__main__":
    answer_request()
