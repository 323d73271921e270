"""From files to files: open, plan, write aside, verify what was written, put it in place.

The folded model is read back from the disk before it is verified, so what is proven is what stays there.
"""

from __future__ import annotations

import contextlib
import filecmp
import gc
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from .errors import InputError, PostconditionError, StrictError, UsageError, VerificationError
from .files import Staging, check_apart, check_reports, in_one_folder, result_path
from .formats import ONNX_SUFFIX, export_model, open_document
from .options import DEFAULTS, Options

if TYPE_CHECKING:
    import onnx

    from .document import Document
    from .ir.graph import Graph
    from .planner.records import Notice, Opaque, Plan
    from .verification.outcome import Verification
    from .verification.verifier import Verifier

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = "PathLike | Sequence[PathLike]"


@dataclass(frozen=True, slots=True)
class Result:
    """What was planned and done. `plans`: by the graph's name. `before`, `after`: layers by type, and "parameters".

    `files`: what was written, with sizes in bytes; `read` and `written`: the bytes of the model before and after.
    `after` and `files` are empty, and `written` is 0, where nothing was. `opaque`: the layers that are not understood.
    """

    sources: tuple[Path, ...]
    plans: tuple[tuple[str, Plan], ...]
    before: Mapping[str, int]
    after: Mapping[str, int] = field(default_factory=dict)
    verification: Verification | None = None
    files: Mapping[Path, int] = field(default_factory=dict)
    read: int = 0
    written: int = 0
    opaque: tuple[Opaque, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def kept_batch_norms(self) -> list[str]:
        """The names of the BatchNorm layers that stay as they are, those by their name that are opaque included."""
        from .planner.records import is_batch_norm

        names = [s.node for _, plan in self.plans for s in plan.stayed if is_batch_norm(s.type)]
        for _, plan in self.plans:
            chains = (d.chain.nodes for d in plan.decisions if d.untouched)
            names += [node.name for nodes in chains for node in nodes if is_batch_norm(node.type)]
        opaque = [layer for layer in self.opaque if layer.normalises and layer.layer not in names]
        names += [f"{layer.layer} ({layer.type}, not understood)" for layer in opaque]
        return list(dict.fromkeys(names))

    @property
    def doubts(self) -> list[Notice]:
        """What may be read in another way, and so is a fault where the user is strict."""
        return [notice for notice in self.notices if notice.strict]


class KeptError(StrictError):
    """`result` holds the plan that keeps a BatchNorm, or what may be read in another way."""

    def __init__(self, result: Result) -> None:
        kept = result.kept_batch_norms
        if not kept:
            doubt = result.doubts[0]
            super().__init__(f"{doubt.sentence}; nothing was written", where=doubt.where, hint=doubt.hint)
            self.result = result
            return
        names = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        super().__init__(f"BatchNorm kept: {names}; nothing was written", hint="`bnfold plan` tells the reasons")
        self.result = result


class MismatchError(VerificationError):
    """`result.verification` holds the figures."""

    def __init__(self, cause: VerificationError, result: Result) -> None:
        super().__init__(f"{cause.what}; nothing was written", where=cause.where, hint=cause.hint)
        self.result = result


def explain(source: Source, options: Options = DEFAULTS) -> Result:
    """What `fold` would do with the model: a path, or a Caffe net's prototxt and caffemodel. Raises InputError."""
    with _no_collector():
        return _planned(open_document(_paths(source), options))[0]


@overload
def fold(source: onnx.ModelProto, out: None = None, options: Options = ...) -> onnx.ModelProto: ...
@overload
def fold(source: Source, out: PathLike | None = None, options: Options = ..., *, report: Source = ()) -> Result: ...
def fold(
    source: onnx.ModelProto | Source,
    out: PathLike | None = None,
    options: Options = DEFAULTS,
    *,
    report: Source = (),
) -> onnx.ModelProto | Result:
    """Fold a model from its files to files, or an `onnx.ModelProto` to a new one.

    `source`: the path of an ONNX model, or the paths of a Caffe net's prototxt and caffemodel in either order. `out`:
    the name of the result, for Caffe without a suffix: `folded` gives folded.prototxt and folded.caffemodel; with
    `Options.in_place` it may be left out. External data of an ONNX model goes to `out`.data. What stands under these
    names is replaced when all has been verified, else it is untouched. `report`: the file or files that the caller is
    going to write; they must be none of these.

    Raises InputError, VerificationError (MismatchError with the figures), StrictError, OutputError, UsageError.
    """
    if out is None and not options.in_place:
        return _fold_in_memory(source, options)
    paths, target = _paths(source), None if out is None else result_path(Path(out))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_no_collector())
        document = open_document(paths, options)
        files = in_one_folder(document.places(target))
        beside = [files[0].with_suffix(ONNX_SUFFIX)] if options.onnx else []
        check_apart([*files, *beside], document.sources, paths if options.in_place else None)
        check_reports(_paths(report), [*files, *beside], document.sources)
        verifier = _verifier(stack) if options.verify else None
        result, plans = _planned(document)
        if options.strict and (result.kept_batch_norms or result.doubts):
            raise KeptError(result)
        staging = stack.enter_context(Staging(files[0].parent))
        contents = document.folded(plans, files)
        staged = [staging.write(path, rope) for path, rope in contents.items()]
        models = staged[: len(paths)]
        folded = _read_back(models, options)
        result = replace(result, after=folded.counts())
        if verifier is not None:
            result = _verified(document, folded, result, plans, verifier)
        for path in beside:
            staging.write(path, export_model(models, options)[0])
        sizes = {path: staging.path(path).stat().st_size for path in staging.targets}
        staging.commit()
    return replace(result, files=sizes, written=sum(sizes[path] for path in contents))


def export(prototxt: PathLike, caffemodel: PathLike, out: PathLike, options: Options = DEFAULTS, **how: Any) -> Result:
    """Write a Caffe net as ONNX. `how`: what `bnfold.caffe.export.onnx_model` takes (opset, ir_version, ...).

    Raises InputError, OutputError, UsageError.
    """
    sources, target = _paths([prototxt, caffemodel]), result_path(Path(out))
    check_apart([target], sources)
    with _no_collector(), Staging(target.parent) as staging:
        rope, (opaque, notices) = export_model(sources, options, **how)
        size = staging.write(target, rope).stat().st_size
        staging.commit()
    return Result(sources, (), {}, files={target: size}, opaque=tuple(opaque), notices=tuple(notices))


# -------------------------------------------------------------------------------------------------------------- steps


def _paths(source: object) -> tuple[Path, ...]:
    if isinstance(source, str | os.PathLike):
        return (Path(source),)
    if isinstance(source, Sequence):
        return tuple(Path(path) for path in source)
    raise UsageError(f"a path or a sequence of paths is needed, not {type(source).__name__}")


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """A model in memory is no garbage until all is done: looking for some takes half the time of a large net."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _planned(document: Document) -> tuple[Result, dict[Graph, Plan]]:
    from .planner.passes import plan

    plans = {graph: plan(graph, document.style) for graph in document.graphs()}
    named = tuple((graph.name, made) for graph, made in plans.items())
    read = sum(path.stat().st_size for path in document.sources)
    opaque, notices = tuple(document.opaque()), tuple(document.notices())
    result = Result(tuple(document.sources), named, document.counts(), read=read, opaque=opaque, notices=notices)
    return result, plans


def _verifier(stack: contextlib.ExitStack) -> Verifier:
    from .verification.verifier import Verifier

    return stack.enter_context(Verifier())


def _read_back(models: Sequence[Path], options: Options) -> Document:
    """The result as it stands on the disk. Raises PostconditionError where it cannot be read: bnfold has written it."""
    try:
        return open_document(models, options)
    except (InputError, UsageError) as error:
        raise PostconditionError(f"the result cannot be read back: {error.what}") from error


def _verified(
    original: Document, folded: Document, result: Result, plans: Mapping[Graph, Plan], verifier: Any
) -> Result:
    """`result` with the verification's figures; raises MismatchError."""
    from .verification.outcome import Verification
    from .verification.probes import probes

    if not any(plan.changes for plan in plans.values()) and _equal(original.sources, folded.sources):
        return replace(result, verification=Verification(identical=True))
    watched = probes(original, plans)
    runnables = (
        original.runnable([probe.original for probe in watched]),
        folded.runnable([probe.folded for probe in watched]),
    )
    outputs = [value.name for value in original.graphs()[0].outputs]
    verification: Verification = verifier.compare(*runnables, outputs, watched)
    result = replace(result, verification=verification)
    try:
        verification.check()
    except VerificationError as error:
        raise MismatchError(error, result) from None
    return result


def _equal(sources: Sequence[Path], others: Sequence[Path]) -> bool:
    pairs = list(zip(sources, others, strict=False))
    return len(sources) == len(others) and all(filecmp.cmp(one, other, shallow=False) for one, other in pairs)


def _fold_in_memory(source: object, options: Options) -> onnx.ModelProto:
    import onnx

    if not isinstance(source, onnx.ModelProto):
        raise UsageError("`out` is needed to fold files", hint="give the name of the result")
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "folded.onnx"
        before.write_bytes(source.SerializeToString())
        fold(before, after, options)
        result = onnx.ModelProto()
        result.ParseFromString(after.read_bytes())
    return result
