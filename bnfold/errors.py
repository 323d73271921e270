"""The tree of errors: what is wrong, where, and how to mend it.

    BnfoldError
    ├── VerificationError   1  the folded outputs differ from the original's; nothing was written
    ├── UsageError          2  the command line, or the arguments of a Python call, are off
    ├── InputError          3  a file that cannot be read, or whose content is not a model
    │   └── AmbiguousError  3  the file has two readings and an option must choose one
    ├── StrictError         4  a BatchNorm was kept and the caller forbade that
    └── OutputError         5  the result could not be written; what stood there before is untouched

The number is the exit status of the command line. A PostconditionError is none of them: it is bnfold's own fault.
"""

from __future__ import annotations

from .printable import printable

TYPE_CHECKING = False  # as in `typing`, which takes as long to load as all else at the start
if TYPE_CHECKING:
    from typing import ClassVar


class BnfoldError(Exception):
    """A fault told for people: `what` is wrong, `where` (file, layer, blob), and a `hint` how to mend it.

    The attributes hold names as they are; `str` escapes what is not printable in them.
    """

    status: ClassVar[int] = 3

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{printable(self.where)}: " if self.where else ""
        mend = f"\n  hint: {printable(self.hint)}" if self.hint else ""
        return f"{place}{printable(self.what)}{mend}"


class VerificationError(BnfoldError):
    """The folded net differs from the original, or one of them cannot be run."""

    status = 1


class UsageError(BnfoldError):
    """What was asked for does not go together, or is not there."""

    status = 2


class InputError(BnfoldError):
    """A file cannot be read, or its content is no model."""

    status = 3


class AmbiguousError(InputError):
    """The file has two readings, and an option must choose."""


class StrictError(BnfoldError):
    """What the caller forbids by `strict`."""

    status = 4


class OutputError(BnfoldError):
    """A result cannot be written."""

    status = 5


class PostconditionError(Exception):
    """What was made of a plan is not what a plan promises: a fault of bnfold itself, whatever the model."""
