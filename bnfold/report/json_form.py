"""The report as JSON: the plain data itself, in names that programs can read."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..ir.names import spelled, writable

if TYPE_CHECKING:
    from .data import Data

_PATHS = ("sources", "path", "where")
_ESCAPED = re.compile("%[0-9a-f]{2}")


def as_json(data: Data) -> str:
    """The report as JSON text, with a line end."""
    return json.dumps(_spelled(data), indent=2, allow_nan=False) + "\n"


def _spelled(value: object) -> object:
    """Plain data in which no name has lone surrogates, which programs read as one and the same character.

    Bytes that are not UTF-8 become %HH, and so does % in a string that could be taken for one of these. Paths stay.
    """
    if isinstance(value, dict):
        return {_spelled(key): item if key in _PATHS else _spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, str) and (_ESCAPED.search(value) or not all(map(writable, value))):
        return spelled(value)
    return value
