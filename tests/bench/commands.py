"""Time whole commands in one run and print the ratios: `python tests/bench/commands.py MODEL [WEIGHTS] [--rounds N]`.

What is compared: copying the files, an empty Python, `bnfold --help`, folding without and with verification, and (for
ONNX, where they are installed) onnx's load and save and onnxruntime's own folding. Seconds differ from machine to
machine; ratios of medians, taken in turn, say more. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONNX = "import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
RUNTIME = """
import onnxruntime as ort, sys
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = sys.argv[2]
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def commands(sources: list[Path], out: Path) -> dict[str, list[str]]:
    """What to time; each command writes at most `out` and its like."""
    python, files = [sys.executable], [str(path) for path in sources]
    fold = [*python, "-m", "bnfold", *files, "-o", str(out), "--quiet"]
    timed = {
        "cp": ["cp", *files, str(out.parent)],
        "python with argparse": [*python, "-c", "import argparse; argparse.ArgumentParser().format_help()"],
        "bnfold --help": [*python, "-m", "bnfold", "--help"],
        "bnfold plan": [*python, "-m", "bnfold", "plan", *files],
        "bnfold --no-verify": [*fold, "--no-verify"],
        "bnfold": fold,
    }
    if len(sources) == 1:
        timed["onnx load and save"] = [*python, "-c", ONNX, *files, str(out)]
        timed["onnxruntime basic"] = [*python, "-c", RUNTIME, *files, str(out)]
    return timed


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    room = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        timed = commands(given.sources, room / ("folded.onnx" if len(given.sources) == 1 else "folded"))
        rounds = [{name: seconds(command) for name, command in timed.items()} for _ in range(given.rounds)]
    finally:
        shutil.rmtree(room)
    medians = {name: statistics.median(one[name] for one in rounds) for name in timed}
    for name, median in medians.items():
        ratios = "  ".join(f"{median / medians[base]:6.2f} x {base}" for base in ("cp", "python with argparse"))
        print(f"{name:22} {median:7.3f} s  {ratios}")


if __name__ == "__main__":
    main()
