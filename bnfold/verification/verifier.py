"""The verifier: hands both nets to a process of its own, and reads what that found.

A crash of the runtime, or its greed for memory, then ends that process and not the caller's.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..document import Runnable
from ..errors import VerificationError
from .outcome import Compared, Verification
from .probes import Probe

TIMEOUT = 900
"""Seconds after which the verification is given up."""
UNPROVEN = "run again with --no-verify to write the result unproven"


class Verifier:
    """The child process as a context; it starts at once, so that it loads the runtime while the caller still folds."""

    def __init__(self) -> None:
        self._child = _start()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        with self._child:  # closes the pipes, also one that was not yet written to, and waits
            self._child.kill()

    def compare(
        self, original: Runnable, folded: Runnable, outputs: Sequence[str], probes: Sequence[Probe]
    ) -> Verification:
        """Run both nets and judge the net's own `outputs`, as far as both compute them, and the values `probes`.

        Where all of it lies behind nodes that are left out nothing runs, and nothing is proven.
        Raises VerificationError where the original cannot be run, or the process crashes or does not end.
        """
        own = [name for name in outputs if name in original.outputs]
        gone = [Compared(n, "", math.inf, None, 0.0, "it is missing") for n in own if n not in folded.outputs]
        kept = [name for name in own if name in folded.outputs]
        ones, others = set(original.probes), set(folded.probes)
        inner = [t for t in probes if t.original in ones and t.folded in others]
        names = [(name, name) for name in kept] + [(t.original, t.folded) for t in inner]
        if not names and not gone and original.left_out:
            return Verification(left_out=original.left_out, uncovered=len(probes))
        if not names:
            raise VerificationError("no value of the net can be computed, so nothing is proven", hint=UNPROVEN)
        told = self._ask(original, folded, names, len(kept))
        if "reason" in told:
            raise VerificationError(f"the original cannot be run: {told['reason']}", hint=UNPROVEN)
        layers = [""] * len(kept) + [probe.layers for probe in inner]
        rows = zip(names, layers, told["verdicts"], strict=not told["problem"])
        compared = [Compared(one, layer, **verdict) for (one, _), layer, verdict in rows]
        return Verification(
            engine=told["engine"],
            note=told["note"],
            draws=told["draws"],
            outputs=[*compared[: len(kept)], *gone],
            inner=compared[len(kept) :],
            left_out=original.left_out,
            uncovered=len(probes) - len(inner) if original.left_out else 0,
            problem=told["problem"],
        )

    def _ask(self, original: Runnable, folded: Runnable, names: list[tuple[str, str]], outputs: int) -> dict[str, Any]:
        """The child's answer; a crash of the runtime is answered by the reference evaluator instead."""
        with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
            room = Path(folder)
            request = {
                "original": _side(room / "original.onnx", original),
                "folded": _side(room / "folded.onnx", folded),
                "names": [(original.spell(one), folded.spell(other)) for one, other in names],
                "outputs": outputs,
                "engine": "",
                "answer": str(room / "answer.json"),
            }
            end = self._run(request)
            if _crashed(end):
                self._child = _start()
                request["engine"] = "reference"
                end = self._run(request)
            try:
                told: dict[str, Any] = json.loads((room / "answer.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise VerificationError(f"the process that runs the nets {end}", hint=UNPROVEN) from None
        if request["engine"] and "reason" not in told:
            told["note"] = "onnxruntime crashed"
        return told

    def _run(self, request: dict[str, Any]) -> str:
        """How the child ended, in words; "" when all is well."""
        try:
            _, stderr = self._child.communicate(json.dumps(request).encode() + b"\n", timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"gave no answer in {TIMEOUT} s"
        return _ending(self._child.returncode, stderr)


def _start() -> subprocess.Popen[bytes]:
    """The child, with the module search path of this process and nothing of the current folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-P", "-m", f"{__package__}.child"]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:
        raise VerificationError(f"no process can be started: {error}", hint=UNPROVEN) from error


def _side(path: Path, runnable: Runnable) -> dict[str, str | None]:
    try:
        with path.open("wb", buffering=1 << 20) as stream:
            runnable.model.write(stream)
    except OSError as error:
        hint = "set TMPDIR to a folder with more space, or use --no-verify"
        raise VerificationError(f"no room for verifying: {error.strerror}", where=str(path), hint=hint) from error
    return {"model": str(path), "data": str(runnable.data.absolute()) if runnable.data else None}


def _crashed(end: str) -> bool:
    """Whether the runtime broke down, rather than ran out of time or memory."""
    return end.startswith("crashed")


def _ending(status: int, stderr: bytes) -> str:
    if status in (-9, 137):
        return "was killed, for want of memory most likely"
    if status < 0:
        known = {int(s): s.name for s in signal.Signals}
        return f"crashed with {known.get(-status, -status)}"
    if status > 255:  # Windows reports an exception so
        return f"crashed with status {status:#x}"
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return f"failed: {lines[-1] if lines else status}" if status else ""
