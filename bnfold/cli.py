"""The command line: arguments in, exit status out. The only module that prints; it imports the others as they are used.

Exit status: 0 done; 1 verification failed; 2 usage; 3 bad input; 4 a BatchNorm was kept and --strict forbids it;
5 could not write; 70 a fault of bnfold itself; 130 interrupted; 141 the reader of the output has gone.
"""

from __future__ import annotations

import argparse
import io
import os
import sys

from . import __version__
from .errors import BnfoldError, UsageError
from .printable import printable
from .report import FORMS

TYPE_CHECKING = False  # as in `typing`, which takes as long to load as all that is loaded here
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any, NoReturn

    from .options import Options
    from .pipeline import Result
    from .report import Form

EPILOG = """\
other commands:
  bnfold plan MODEL [WEIGHTS]                  tell what would be folded and what not, and why; write nothing
  bnfold export PROTOTXT CAFFEMODEL -o OUT     write a Caffe net as ONNX
  (a file that is called plan or export is given as ./plan or ./export)

exit status: 0 done; 1 verification failed; 2 usage; 3 bad input; 4 a BatchNorm was kept and --strict forbids it;
             5 could not write"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"plan": _plan, "export": _export}
    command = commands.get(words[0] if words else "", _fold)
    debug = "--debug" in words or bool(os.environ.get("BNFOLD_DEBUG"))
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding lacks
    try:
        command(words if command is _fold else words[1:])
        sys.stdout.flush()
    except BnfoldError as error:
        return _fault(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there at exit
        return 141
    except Exception as error:  # the last resort: no traceback for what a user cannot mend
        return _own_fault(error, debug=debug)
    return 0


def _fold(words: Sequence[str]) -> None:
    parser = _parser("bnfold", "Fold BatchNorm, Scale and other affine layers into their neighbours, exactly.", EPILOG)
    _add_model(parser)
    parser.add_argument("-o", "--out", metavar="OUT", help="the result: folded.onnx; folded for Caffe")
    parser.add_argument("--in-place", action="store_true", help="let the result replace the model, also without -o")
    _add_reading(parser)
    parser.add_argument("--strict", action="store_true", help="fail if a BatchNorm is kept, or may be read in two ways")
    parser.add_argument("--no-verify", action="store_true", help="write the result without running it")
    parser.add_argument("--onnx", action="store_true", help="write the folded Caffe net as OUT.onnx too")
    for form in FORMS:
        what = f"write the report as {form.name}; - is standard output"
        parser.add_argument(f"--{form.option}", metavar="FILE", help=what)
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each layer that is not understood")
    parser.add_argument("--version", action="version", version=f"bnfold {__version__}")
    given = parser.parse_args(words)
    if given.out is None and not given.in_place:
        raise UsageError("the result has no name", hint="such as -o folded; --in-place replaces the model")
    from . import pipeline

    forms = {form: name for form in FORMS if (name := getattr(given, form.option)) is not None}
    files = [name for name in forms.values() if name != "-"]
    for name in files:
        _write(name, "", for_good=False)  # what cannot be is found out before the fold
    options = _options(given, strict=given.strict, verify=not given.no_verify, onnx=given.onnx, in_place=given.in_place)
    try:
        result = pipeline.fold(_sources(given), given.out, options, report=files)
    except (pipeline.KeptError, pipeline.MismatchError) as error:
        _report(error.result, forms, quiet=given.quiet, verbose=given.verbose)
        raise
    _report(result, forms, quiet=given.quiet, verbose=given.verbose)


def _plan(words: Sequence[str]) -> None:
    parser = _parser("bnfold plan", "Tell what would be folded into what, what would be kept and why. Writes nothing.")
    _add_model(parser)
    _add_reading(parser)
    for form in FORMS:
        parser.add_argument(f"--{form.option}", action="store_true", help=f"print the plan as {form.name}")
    given = parser.parse_args(words)
    from . import pipeline

    result = pipeline.explain(_sources(given), _options(given))
    _report(result, {form: "-" for form in FORMS if getattr(given, form.option)}, quiet=False, verbose=True)


def _export(words: Sequence[str]) -> None:
    parser = _parser("bnfold export", "Write a Caffe net as ONNX.")
    parser.add_argument("prototxt", metavar="PROTOTXT", help="the net's description")
    parser.add_argument("caffemodel", metavar="CAFFEMODEL", help="its weights")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="the ONNX model to write")
    _add_caffe_reading(parser)
    parser.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators")
    parser.add_argument("--ir-version", type=int, metavar="N", help="version of the ONNX format")
    parser.add_argument("--dynamic-batch", action="store_true", help="leave the extent of the batch open")
    given = parser.parse_args(words)
    from . import pipeline

    chosen = {"opset": given.opset, "ir_version": given.ir_version}
    how = {name: value for name, value in chosen.items() if value is not None} | {"dynamic_batch": given.dynamic_batch}
    from .options import Options

    options = Options(bn_blobs=given.bn_blobs, **_state(given))
    from .report import data, tables, terminal

    result = pipeline.export(given.prototxt, given.caffemodel, given.out, options, **how)
    terminal.write_text(tables.as_notices(data.as_data(result)), sys.stdout)
    for path, size in result.files.items():
        print(printable(f"{path}  {size:,} bytes"))


# ---------------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def _parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = _Parser(name, description=description, epilog=epilog, formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a fault of bnfold itself")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX model, or the prototxt of a Caffe net")
    parser.add_argument("weights", metavar="WEIGHTS", nargs="?", help="the caffemodel of a Caffe net")


def _add_caffe_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", choices=["TEST", "TRAIN"], help="the net's phase (default: TEST)")
    parser.add_argument("--stage", action="append", default=[], metavar="S", help="a stage of the net's state")
    parser.add_argument("--level", type=int, metavar="N", help="the level of the net's state")
    parser.add_argument(
        "--bn-blobs", metavar="ORDER", help="the order of a BatchNorm's blobs, where the file leaves it open"
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=1x3x224x224", help="the shape of an input"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    _add_caffe_reading(parser)
    parser.add_argument("--keep", action="append", default=[], metavar="BLOB", help="a value to keep, name and content")
    parser.add_argument("--freeze", action="store_true", help="take overridable initializers of ONNX for constants")
    parser.add_argument(
        "--fold-quantized", action="store_true", help="fold into layers with stored quantisation scales, too"
    )


def _sources(given: argparse.Namespace) -> list[Path]:
    from pathlib import Path

    return [Path(word) for word in (given.model, given.weights) if word is not None]


def _options(given: argparse.Namespace, **asked: bool) -> Options:
    from .options import Options

    chosen: dict[str, Any] = {"bn_blobs": given.bn_blobs, "fold_quantized": given.fold_quantized, **asked}
    return Options(keep=tuple(given.keep), freeze=given.freeze, **_state(given), **chosen)


def _state(given: argparse.Namespace) -> dict[str, Any]:
    """Which layers of a Caffe net are active, and the shapes of its inputs."""
    inputs = tuple(_input(word) for word in given.input)
    return {"phase": given.phase, "stages": tuple(given.stage), "level": given.level, "inputs": inputs}


def _input(word: str) -> tuple[str, tuple[int, ...]]:
    """`data=1x3x224x224` as a name and a shape; a name may hold an equals sign."""
    name, _, shape = word.rpartition("=")
    try:
        extents = tuple(int(extent) for extent in shape.split("x"))
    except ValueError:
        extents = ()
    if not name or not extents or min(extents) < 1:
        raise UsageError(f"--input {word!r} is no name with a shape", hint="such as --input data=1x3x224x224")
    return name, extents


# ------------------------------------------------------------------------------------------------------------- output


def _report(result: Result, forms: Mapping[Form, str], *, quiet: bool, verbose: bool) -> None:
    """Each form into its file, and the tables on stdout, unless a form goes there."""
    from .report import data, tables, terminal

    made = data.as_data(result)
    for form, name in forms.items():
        if name == "-":
            print(form.text(made), end="")
        else:
            _write(name, form.text(made))
    if not quiet and "-" not in forms.values():
        terminal.write_text(tables.as_tables(made, verbose=verbose), sys.stdout)


def _write(name: str, text: str, *, for_good: bool = True) -> None:
    from pathlib import Path

    from .files import Staging
    from .protobuf import Rope

    path = Path.cwd() / name
    with Staging(path.parent) as staging:
        staging.write(path, Rope(text.encode("utf-8", "surrogateescape")))
        if for_good:
            staging.commit()


def _fault(error: BnfoldError) -> int:
    print(f"bnfold: {error}", file=sys.stderr)
    return error.status


def _own_fault(error: Exception, *, debug: bool) -> int:
    for line in _traceback(error) if debug else ():
        print(printable(line), file=sys.stderr)
    print(printable(f"bnfold: a fault of bnfold itself: {type(error).__name__}: {error}"), file=sys.stderr)
    if not debug:
        print("  hint: please report it with the model's graph and the output of --debug", file=sys.stderr)
    return 70


def _traceback(error: BaseException) -> Iterator[str]:
    """Its lines, each cause before what it led to; a message is one line, since it may hold names from files."""
    import traceback

    if cause := error.__cause__ or error.__context__:
        yield from _traceback(cause)
        yield f"{type(cause).__name__}: {cause}"
    yield "Traceback (most recent call last):"
    for part in traceback.format_tb(error.__traceback__):
        yield from part.splitlines()
