"""What was found and done, for the reader: FORMS is the table of the forms in which a report is written to a file.

A form is a module here, which makes a text from the plain data of `data.as_data`, and a row. The command line makes an
option of each row. This module is loaded for `--help`: it imports none of them.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `typing`, which takes longer to load than all of this
if TYPE_CHECKING:
    from .data import Data


class Form:
    """A row: `--option FILE` writes the report as `name`, which `function` of `module` makes from the plain data."""

    def __init__(self, option: str, name: str, module: str, function: str) -> None:
        self.option, self.name, self.module, self.function = option, name, module, function

    def text(self, data: Data) -> str:
        """The report that `data` is, as what is written to the file."""
        made: str = getattr(importlib.import_module(f".{self.module}", __name__), self.function)(data)
        return made


FORMS = (Form("json", "JSON", "json_form", "as_json"),)
