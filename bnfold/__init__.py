"""Folds BatchNorm, Scale and every other per-channel affine layer of Caffe and ONNX networks into their neighbours.

`fold` writes (or returns) the folded network, `explain` says what it would do, `export` turns a Caffe net into ONNX.
All raise the errors of `bnfold.errors`. Names are loaded when they are first used, so that importing this is free.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `typing`, which takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

    from .errors import AmbiguousError, BnfoldError, InputError, OutputError, StrictError, UsageError, VerificationError
    from .options import Options
    from .pipeline import Result, explain, export, fold

__version__ = "0.1.0"

__all__ = [
    "AmbiguousError",
    "BnfoldError",
    "InputError",
    "Options",
    "OutputError",
    "Result",
    "StrictError",
    "UsageError",
    "VerificationError",
    "__version__",
    "explain",
    "export",
    "fold",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(".errors" if name.endswith("Error") else ".pipeline", __name__)
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
