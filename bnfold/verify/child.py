"""The verification's own process: reads a request on stdin, runs both nets, and writes the answer to a file.

    request: {"original": SIDE, "folded": SIDE, "names": [[original's, folded's], ...], "outputs": N,
              "engine": "" or "reference", "answer": PATH};    SIDE: {"model": PATH, "data": FOLDER or null}
    answer:  {"reason": WHY} where the original cannot be run, else
             {"engine", "note", "draws", "problem", "verdicts": [VERDICT, ...]}, a Verdict for each name in that order

The first N names are the net's outputs; the others lie inside it, from its inputs towards its outputs.
A crash of the runtime, or its greed for memory, ends this process and not the caller's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine, OnnxRuntime, Reference, first_working, jitter, load, perturbed, spacing
from .inputs import Feeds, draws
from .judge import Channels, Difference, Verdict, difference, floor, judge
from .survey import SPACING, survey

BUDGET = 1 << 28
"""Bytes of a net's values that are held at once."""
PERTURBATIONS = 8
ORIGINAL, FOLDED = 0, 1


@dataclass(frozen=True)
class Side:
    """One of the two nets, as files: the model, and the folder of its external data."""

    model: Path
    data: Path | None


def runtime(side: Side) -> Engine:
    if survey(side.model).blank:
        raise ValueError("names of outputs are empty")
    return OnnxRuntime(side.model, side.data)


def mended_runtime(side: Side) -> Engine:
    return OnnxRuntime(load(side.model, side.data).SerializeToString(), None)


def reference(side: Side) -> Engine:
    return Reference(load(side.model, side.data))


def perturbed_like(engine: Engine, side: Side, seed: int) -> Engine:
    moved = perturbed(load(side.model, side.data), seed)
    return Reference(moved) if isinstance(engine, Reference) else OnnxRuntime(moved.SerializeToString(), None)


@dataclass
class Trial:
    """The original, which runs on the inputs `draws`, and the pairs of names to compare."""

    original: Side
    engine: Engine
    draws: list[Feeds]
    names: list[tuple[str, str]]
    outputs: int

    def against(self, side: Side, folded: Engine) -> list[Verdict]:
        """A verdict for each pair of names."""
        surveys = [survey(self.original.model), survey(side.model)]
        unit = max(s.unit for s in surveys) or SPACING[1]
        inner = len(self.names) - self.outputs
        floors = [floor(unit, depth) for depth in [inner + 1] * self.outputs + list(range(1, inner + 1))]
        found = self._differences(range(len(self.names)), folded, FOLDED, self.draws)
        verdicts = [judge(found[n], None, limit) for n, limit in enumerate(floors)]
        doubtful = [n for n, verdict in enumerate(verdicts) if not verdict.passed]
        for noises in self._movements(doubtful, pooled=surveys[0].quantised):
            for n in doubtful:
                verdicts[n] = judge(found[n], noises[n], floors[n])
            if all(verdicts[n].passed for n in doubtful):
                break
        return verdicts

    def _movements(self, numbers: list[int], *, pooled: bool) -> Iterator[dict[int, list[Channels]]]:
        """How far the original's values move by themselves, a draw; the largest so far, after each perturbation.

        `pooled`: over all channels, since a net that rounds to steps takes another step here and there.
        """
        noises = {n: [np.zeros(1) for _ in self.draws] for n in numbers}
        for seed in range(PERTURBATIONS if numbers else 0):
            engine, _ = first_working([functools.partial(perturbed_like, self.engine, self.original, seed)])
            if engine is None:
                return
            rng = np.random.default_rng(seed)
            shaken = [{k: jitter(v, rng) if spacing(v.dtype) else v for k, v in feeds.items()} for feeds in self.draws]
            for n, moved in self._differences(numbers, engine, ORIGINAL, shaken).items():
                by = [m.by.max(keepdims=True) if pooled else m.by for m in moved]
                noises[n] = [np.maximum(old, new) for old, new in zip(noises[n], by, strict=True)]
            yield noises

    def _differences(
        self, numbers: Sequence[int], other: Engine, side: int, feeds: Sequence[Feeds]
    ) -> dict[int, list[Difference]]:
        """Of the values under the names `numbers` to those of `other` fed with `feeds`, for each draw."""
        found: dict[int, list[Difference]] = {n: [] for n in numbers}
        for own, others in zip(self.draws, feeds, strict=True):
            for some in self._portions(numbers, own):
                ones = self.engine.run([self.names[n][ORIGINAL] for n in some], own)
                twos = other.run([self.names[n][side] for n in some], others)
                for n, one, two in zip(some, ones, twos, strict=True):
                    found[n].append(difference(one, two))
        return found

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


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer, from the first engine that runs the original."""
    original, folded = (
        Side(Path(side["model"]), Path(side["data"]) if side["data"] else None)
        for side in (request["original"], request["folded"])
    )
    names = [(one, other) for one, other in request["names"]]
    outputs: int = request["outputs"]

    def trial(make: Callable[[Side], Engine]) -> tuple[Trial, Callable[[Side], Engine]]:
        engine = make(original)
        found = draws(engine, [one for one, _ in names[: outputs or 1]])
        return Trial(original, engine, found, names, outputs), make

    makers = (reference,) if request["engine"] else (runtime, mended_runtime, reference)
    first, reasons = first_working([functools.partial(trial, make) for make in makers])
    if first is None:
        return {"reason": "; ".join(dict.fromkeys(reasons))}
    begun, make = first
    note = reasons[0] if reasons and make is reference else ""
    told = {"engine": begun.engine.name, "note": note, "draws": len(begun.draws), "problem": "", "verdicts": []}
    try:
        return told | {"verdicts": [dataclasses.asdict(v) for v in begun.against(folded, make(folded))]}
    except Exception as error:  # the original ran: whatever the engine says is about the folded net
        return told | {"problem": (str(error).strip() or type(error).__name__).splitlines()[0]}


def main() -> None:
    import onnxruntime  # noqa: F401  # loaded while the caller is still folding

    line = sys.stdin.readline()
    if line:
        request = json.loads(line)
        Path(request["answer"]).write_text(json.dumps(answer(request)), encoding="utf-8")


if __name__ == "__main__":
    main()
