"""What a verification found: value by value how far the folded net is from the original, and what was not compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import VerificationError

LOOSE = 0.25
"""Of a value's maximum: where rounding explains more, comparing says nothing."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One value of the net: how far the folded one is from the original one, relative to its largest element.

    `layers` says what was folded there, "" for an output of the net. `noise` is how far the original moves by itself
    when its constants are rounded otherwise, None where that was not needed. `limit` is what counts as rounding.
    `compared` elements were looked at; `skipped` ones were not, since the original is infinite or NaN there.
    """

    name: str
    layers: str
    error: float
    noise: float | None
    limit: float
    problem: str = ""
    compared: int = 1
    skipped: int = 0

    @property
    def passed(self) -> bool:
        """Nothing speaks against it."""
        return self.error <= self.limit and not self.problem

    @property
    def proven(self) -> bool:
        """Something speaks for it, too: a fault could have been seen."""
        return self.passed and self.compared > 0 and 0 < self.limit <= LOOSE

    @property
    def remark(self) -> str:
        """What the comparison does not show."""
        if not self.compared and not self.problem:
            why = "the original is not finite anywhere" if self.skipped else "it has no elements"
            return f"not proven: {why}"
        if self.passed and not self.limit:
            return "not proven: it is 0 everywhere"
        if self.passed and self.limit > LOOSE:
            return "not proven: the original is so badly conditioned there that nearly all could be rounding"
        return f"not compared where the original is not finite, {self.skipped} elements" if self.skipped else ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, by what, and what was not.

    `identical`: the files are equal byte by byte, so nothing ran. `note`: why onnxruntime did not do it. `left_out`:
    the nodes that could not be run; `uncovered`: how many folds lie beyond them. `problem`: the folded net did not run.
    """

    identical: bool = False
    engine: str = ""
    note: str = ""
    draws: int = 0
    outputs: list[Compared] = field(default_factory=list)
    inner: list[Compared] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    uncovered: int = 0
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Nothing speaks against the folded net."""
        return not self.problem and all(c.passed for c in [*self.inner, *self.outputs])

    @property
    def proven(self) -> bool:
        """Each output speaks for it, anything was compared at all, and no fold lies beyond what could be run."""
        compared = self.identical or bool(self.outputs or self.inner)
        return self.passed and compared and not self.uncovered and all(c.proven for c in self.outputs)

    @property
    def first_wrong(self) -> Compared | None:
        """Of the values that differ, the one nearest to the inputs."""
        return next((c for c in [*self.inner, *self.outputs] if not c.passed), None)

    def check(self) -> None:
        """Raises VerificationError unless passed."""
        if self.problem:
            raise VerificationError(f"the folded net does not run: {self.problem}")
        wrong = self.first_wrong
        if wrong is None:
            return
        by = wrong.problem or f"by {wrong.error:.2g} of its maximum, where rounding explains {wrong.limit:.2g}"
        cause = f" (where {wrong.layers})" if wrong.layers else ""
        raise VerificationError(f"the folded net differs from the original, first at {wrong.name!r}{cause}: {by}")
