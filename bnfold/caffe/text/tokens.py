"""The tokens of protobuf's text format, and what the quoted ones say."""

from __future__ import annotations

import re

from ...protobuf import decoded, encoded

_GAP = r"(?:[ \t\r\n\f\v]++|\#[^\n]*+)*+"
TOKEN = re.compile(
    _GAP
    + r"""
    (?: ([A-Za-z_][A-Za-z0-9_]*+)
      | (-?[ \t\r\n]*+(?:0[xX][0-9a-fA-F]++|(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+[fF]?+)
         |-[ \t\r\n]*+(?i:infinity|inf|nan)\b)
      | ("[^"\\]*+(?:\\.[^"\\]*+)*+"|'[^'\\]*+(?:\\.[^'\\]*+)*+')
      | ([{}<>\[\]:;,])
      | (\Z) )""",
    re.VERBOSE | re.DOTALL,
)
"""One token behind any white space and comments; its group is its kind."""
WORD, NUMBER, STRING, PUNCTUATION, END = range(1, 6)

GAP = re.compile(_GAP)
EXTENSION = re.compile(r"\[\s*+([\w.]++(?:/[\w.]++)?+)\s*+\]")
"""The name of an extension or of a packed message, which may stand for a field name."""

_ESCAPE = re.compile(
    rb"""((?:\\u[0-9a-fA-F]{4})+)|\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|U(00[01][0-9a-fA-F]{5})|([abfnrtv\\?'"])|)"""
)
_SIMPLE = dict(zip(b"abfnrtv\\?'\"", b"\a\b\f\n\r\t\v\\?'\"", strict=True))


def unquote(text: str, start: int, end: int) -> str:
    """The string that the tokens of text[start:end] say together, bytes that are not UTF-8 as lone surrogates.

    Raises ValueError for an escape that means nothing.
    """
    pieces = []
    while start < end and (token := TOKEN.match(text, start)):
        raw = token[STRING][1:-1]
        pieces.append(_ESCAPE.sub(_resolve, encoded(raw)))
        start = token.end()
    return decoded(b"".join(pieces))  # one character may have its bytes in two pieces


def _resolve(escape: re.Match[bytes]) -> bytes:
    utf16, octal, hexadecimal, code, simple = escape.groups()
    if utf16:
        return bytes.fromhex(utf16.replace(b"\\u", b"").decode()).decode("utf-16-be").encode()
    if octal:
        return bytes([int(octal, 8)])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if code:
        return chr(int(code, 16)).encode()
    if simple:
        return bytes([_SIMPLE[simple[0]]])
    raise ValueError(escape[0])
