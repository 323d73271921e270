"""Which files may be written: never the input's, unless that is asked for, and never what is no earlier result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import UsageError


def target(out: Path) -> Path:
    """`out`, made absolute. Raises UsageError for what cannot name a file."""
    if out.name in ("", ".."):
        raise UsageError(f"-o must name a file, not {str(out)!r}", hint="such as -o folded")
    return Path.cwd() / out


def same(one: Path, other: Path) -> bool:
    """Whether two names are one file: by links, through other folders, in letters that the file system takes alike.

    Of two files that are not there yet, names in another case are taken for one: nobody can tell.
    """
    there = _is_there(one), _is_there(other)
    if any(there):
        return all(there) and one.samefile(other)
    return os.path.realpath(one).casefold() == os.path.realpath(other).casefold()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # in a folder that may not be looked into, too; ValueError: a NUL in the path
        return False
    return True


def together(places: Sequence[Path]) -> list[Path]:
    """`places` as files of one folder. Raises UsageError where they are not."""
    folder = Path.cwd() / places[0].parent
    for place in places:
        if not same(folder, place.parent):
            what = f"{places[0]} and {place} lie in two folders, and files are replaced together in one only"
            raise UsageError(what, hint="give the result a name with -o")
    return [folder / place.name for place in places]


def check_apart(places: Iterable[Path], sources: Sequence[Path], replaced: Sequence[Path] | None = None) -> None:
    """Raises UsageError where a result would overwrite a file of the input.

    `replaced`: the files that make up the model where the result may replace it; it must replace all of them, since
    one of two that is left would fit to nothing. None where it may not.
    """
    places = list(places)
    if replaced and all(any(same(place, path) for place in places) for path in replaced):
        return
    for place in places:
        for source in sources:
            if same(place, source):
                what = f"the result {place.name} would overwrite the input {source}"
                if replaced:
                    what += ", and not all of the model"
                raise UsageError(
                    what, hint="choose another name with -o; --in-place replaces a whole model by its fold"
                )


def check_report(report: Path, places: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raises UsageError where a report would take the place of a file of the input or of the result."""
    for what, paths in (("input", sources), ("result", places)):
        for path in paths:
            if same(report, path):
                raise UsageError(
                    f"--json {report} would overwrite the {what} {path}", hint="give the report another name"
                )
