"""Reading maps; writing puts a whole set in place or leaves the folder as it was, whatever fails and when."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnfold.errors import InputError, OutputError
from bnfold.files import Staging, open_mapped
from bnfold.protobuf import Lazy, Rope

OLD = {"net.prototxt": b"old text", "net.caffemodel": b"old weights"}
NEW = {"net.prototxt": b"new text", "net.caffemodel": b"new weights", "net.data": b"new data"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if not name.startswith(".")}


def put(folder: Path, files: dict[str, bytes]) -> None:
    with Staging(folder) as staging:
        for name, content in files.items():
            staging.write(folder / name, Rope(content))
        staging.commit()


def test_maps_and_outlives_replacement(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(b"before")
    view = open_mapped(path)
    put(tmp_path, {"net": b"after"})
    assert bytes(view) == b"before"
    assert path.read_bytes() == b"after"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: p.touch(), "empty"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    make(tmp_path / "net")
    with pytest.raises(InputError, match=told):
        open_mapped(tmp_path / "net")


def test_a_name_that_no_system_takes() -> None:
    with pytest.raises(InputError, match="null"):
        open_mapped(Path("a\0b"))


def test_writes_all_and_leaves_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    put(tmp_path, NEW)
    assert contents(tmp_path) == NEW
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_without_commit_nothing_changes(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    with Staging(tmp_path) as staging:
        staging.write(tmp_path / "net.prototxt", Rope(b"new"))
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("function", ["link", "mkdir", "fsync", "open", "rename", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [OLD, {}])
def test_every_call_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, fault: BaseException, before: dict[str, bytes]
) -> None:
    """The n-th call of a system function fails, for every n that occurs; the folder is as it was, or complete."""
    real = getattr(os, function)
    for failing in itertools.count():
        folder = tmp_path / str(failing)
        folder.mkdir()
        put(folder, before)
        calls = itertools.count()

        def broken(*args: Any, calls: Iterator[int] = calls, failing: int = failing, **named: Any) -> Any:
            if next(calls) == failing:
                raise fault
            return real(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, broken)
            try:
                put(folder, NEW)
            except OutputError:
                assert visible(folder) == before
                assert contents(folder) == before
            except KeyboardInterrupt:
                assert visible(folder) in (before, NEW)  # it may come when all is in place
            else:
                assert visible(folder) == NEW
        if next(calls) <= failing:
            return


def test_a_piece_that_fails_while_it_is_written(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    put(tmp_path, OLD)
    with Staging(tmp_path) as staging:
        staging.write(tmp_path / "net.prototxt", Rope(b"new"))
        with pytest.raises(OutputError, match="Input/output"):
            staging.write(tmp_path / "net.caffemodel", Rope(b"new", Lazy(4, fail)))
    assert contents(tmp_path) == OLD


def test_no_space_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Rope, stream: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Rope, "write", full)
    with pytest.raises(OutputError) as told:
        put(tmp_path, NEW)
    assert "free some space" in told.value.hint


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any, **named: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    put(tmp_path, OLD)
    put(tmp_path, NEW)
    assert contents(tmp_path) == NEW


def test_missing_folder_and_taken_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        put(tmp_path / "none", OLD)
    (tmp_path / "net.prototxt").mkdir()
    with pytest.raises(OutputError, match="a folder has this name"):
        put(tmp_path, OLD)


def test_keeps_the_mode_of_what_it_replaces_and_the_umask_of_what_is_new(tmp_path: Path) -> None:
    old = tmp_path / "net.prototxt"
    old.write_bytes(b"")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        put(tmp_path, NEW)
    finally:
        os.umask(before)
    assert old.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "net.caffemodel").stat().st_mode & 0o777 == 0o640


def test_write_protection_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, OLD)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("caffemodel"))
    with pytest.raises(OutputError, match="write-protected"):
        put(tmp_path, NEW)
    assert contents(tmp_path) == OLD


def test_a_link_is_replaced_and_its_file_untouched(tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(b"precious")
    (tmp_path / "net.prototxt").symlink_to("original")
    put(tmp_path, {"net.prototxt": b"new"})
    assert (tmp_path / "original").read_bytes() == b"precious"
    assert (tmp_path / "net.prototxt").read_bytes() == b"new"
    assert not (tmp_path / "net.prototxt").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Staging(tmp_path) as staging, pytest.raises(OutputError, match="no regular file"):
        staging.write(tmp_path / "pipe", Rope(b""))
    assert (tmp_path / "pipe").is_fifo()
