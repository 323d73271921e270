"""Files: mapped for reading, and written as a set that appears whole or not at all, over no file of the input.

Results are staged in a folder beside their places, on the same file system, so that putting them there is a rename.
The set is put in place name by name; a failure on the way puts back what stood there before. Between two renames a
killed process can leave a set half new, each file of it complete: file systems have no rename of several names.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .errors import InputError, OutputError, UsageError
from .protobuf import Rope


def open_mapped(path: Path) -> memoryview:
    """The content of the regular file `path`, read-only, fetched by the system as it is looked at.

    The view stays valid when another file takes the name. Raises InputError where there is nothing to read.
    """
    try:
        with path.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise InputError("the file is empty", where=str(path), hint="was it copied or downloaded whole?")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path)) from None
    except IsADirectoryError:
        raise InputError("this is a folder; a file is needed", where=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot be read: {_system_words(error)}", where=str(path)) from None


# ------------------------------------------------------------------------------------------------- which may be written


def result_path(out: Path) -> Path:
    """`out`, made absolute. Raises UsageError for what cannot name a file."""
    if out.name in ("", ".."):
        raise UsageError(f"-o must name a file, not {str(out)!r}", hint="such as -o folded")
    return Path.cwd() / out


def same_file(one: Path, other: Path) -> bool:
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


def in_one_folder(places: Sequence[Path]) -> list[Path]:
    """`places` as files of one folder. Raises UsageError where they are not."""
    folder = Path.cwd() / places[0].parent
    for place in places:
        if not same_file(folder, place.parent):
            what = f"{places[0]} and {place} lie in two folders, and files are replaced together in one only"
            raise UsageError(what, hint="give the result a name with -o")
    return [folder / place.name for place in places]


def check_apart(places: Iterable[Path], sources: Sequence[Path], replaced: Sequence[Path] | None = None) -> None:
    """Raises UsageError where a result would overwrite a file of the input.

    `replaced`: the files that make up the model where the result may replace it; it must replace all of them, since
    one of two that is left would fit to nothing. None where it may not.
    """
    places = list(places)
    if replaced and all(any(same_file(place, path) for place in places) for path in replaced):
        return
    for place in places:
        for source in sources:
            if same_file(place, source):
                what = f"the result {place.name} would overwrite the input {source}"
                if replaced:
                    what += ", and not all of the model"
                raise UsageError(
                    what, hint="choose another name with -o; --in-place replaces a whole model by its fold"
                )


def check_reports(reports: Iterable[Path], places: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raises UsageError where a report would take the place of a file of the input or of the result, or of another."""
    taken = [*(("input", path) for path in sources), *(("result", path) for path in places)]
    for report in reports:
        for what, path in taken:
            if same_file(report, path):
                raise UsageError(f"the report {report} would overwrite the {what} {path}", hint="give it another name")
        taken.append(("report", report))


# -------------------------------------------------------------------------------------------------------------- writing


class Staging:
    """A set of files for one folder: written aside, then put in place together by `commit`.

    Use as a context; leaving it without `commit` leaves the folder as it was. Every method raises OutputError.
    A symbolic link that bears the name of a result is replaced, and the file that it points at is not touched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.targets: list[Path] = []

    def __enter__(self) -> Staging:
        if not self.folder.is_dir():
            raise OutputError("there is no such folder to write into", where=str(self.folder), hint="create it first")
        with _output_errors(self.folder):
            self._room = Path(tempfile.mkdtemp(prefix=".bnfold-", dir=self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._room, ignore_errors=True)

    def path(self, target: Path) -> Path:
        """Where the content of `target`, a file of the folder, is staged: under the same name in another folder."""
        if target.is_dir():
            raise OutputError("a folder has this name already", where=str(target), hint="choose another name with -o")
        if target.exists() and not target.is_file():  # such as /dev/null, which root could replace
            raise OutputError("this is no regular file", where=str(target), hint="choose another name with -o")
        if target.exists() and not os.access(target, os.W_OK):
            raise OutputError("the file is write-protected", where=str(target), hint="choose another name with -o")
        staged = self._room / "new" / target.name
        if target not in self.targets:
            self.targets.append(target)
            with _output_errors(target):
                staged.parent.mkdir(exist_ok=True)
        return staged

    def write(self, target: Path, content: Rope) -> Path:
        """Stage `content` for `target`; returns where it lies."""
        staged = self.path(target)
        with _output_errors(target), staged.open("wb", buffering=1 << 20) as stream:
            content.write(stream)
        return staged

    def commit(self) -> None:
        """Put all staged files in place. On any failure, an interrupt too, the folder is again what it was."""
        with contextlib.ExitStack() as undo:
            for number, target in enumerate(self.targets):
                with _output_errors(target):
                    self._prepare(target, self._room / "old" / str(number), undo)
            for target in self.targets:
                with _output_errors(target):
                    self.path(target).replace(target)
            undo.pop_all()

    def _prepare(self, target: Path, old: Path, undo: contextlib.ExitStack) -> None:
        """Have all that can fail, but the renames, behind us: the target's mode, its way back."""
        if not os.path.lexists(target):
            undo.callback(target.unlink, missing_ok=True)
            return
        staged = self.path(target)
        if not target.is_symlink():
            shutil.copymode(target, staged)
        _flush(staged)
        old.parent.mkdir(exist_ok=True)
        _link_or_copy(target, old)
        undo.callback(old.replace, target)


def _flush(path: Path) -> None:
    """Have `path` on the disk before it takes the place of a file that is there."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for `source`, so that it has a name at every moment; a copy where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """What the system refuses while writing `path`, as an OutputError with a hint."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space, or write elsewhere with -o",
            errno.EDQUOT: "the quota is used up; write elsewhere with -o",
            errno.EACCES: "write elsewhere with -o",
            errno.EPERM: "write elsewhere with -o",
            errno.EROFS: "the file system is read-only; write elsewhere with -o",
        }
        hint = hints.get(error.errno or 0, "")
        raise OutputError(f"cannot be written: {_system_words(error)}", where=str(path), hint=hint) from error


def _system_words(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
