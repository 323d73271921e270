"""What is said where the process that verifies cannot begin, and what is written then: nothing."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bnfold import Options, fold
from bnfold.errors import VerificationError


def test_no_process_no_files(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    sources = [samples / "resnet_block.prototxt", samples / "resnet_block.caffemodel"]
    with pytest.raises(VerificationError, match=r"no process can be started.*unavailable") as caught:
        fold(sources, tmp_path / "folded")
    assert "--no-verify" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    fold(sources, tmp_path / "folded", Options(verify=False))
    assert len(list(tmp_path.iterdir())) == 2
