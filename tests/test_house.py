"""The house rules that a reader of bnfold/README.md relies on, held against every module of the package."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bnfold
from bnfold.report import FORMS

PACKAGE = Path(bnfold.__file__).parent
GENERATED = "caffe.caffe_pb2"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if module_of(path) != GENERATED
}
PACKAGES = {module_of(path) for path in PACKAGE.rglob("__init__.py")}
Function = ast.FunctionDef | ast.AsyncFunctionDef

# ------------------------------------------------------------------------------------------------------------- imports

FLOORS = """
    printable
    protobuf
    content
    errors
    files
    ir ir.element_types ir.graph ir.names ir.shapes
    ir.shapes.check
    ir.shapes.arguments
    ir.shapes.layout ir.shapes.made ir.shapes.matrix ir.shapes.windows
    ir.shapes.spatial
    ir.shapes.table
    planner planner.affine
    planner.records
    planner.refusal
    planner.quantised planner.transfer
    planner.foldable planner.moves
    planner.commuting planner.precision planner.view
    planner.propagate
    planner.passes
    document
    onnx onnx.constants onnx.schema onnx.signatures
    onnx.messages onnx.serialize
    onnx.model_writer onnx.order onnx.parameters onnx.read onnx.splice onnx.tensors
    onnx.graphs
    onnx.leftover onnx.uses
    onnx.edit onnx.growth
    onnx.data_files
    onnx.postconditions onnx.render
    onnx.document
    caffe caffe.layers.reading caffe.phases caffe.text caffe.text.fields caffe.text.tokens caffe.weights \
    caffe.weights.blob
    caffe.text.tree caffe.weights.hdf5
    caffe.text.edit caffe.text.parser caffe.text.typed
    caffe.upgrade
    caffe.weights.caffemodel
    caffe.net
    caffe.inputs caffe.layers.builder caffe.leftover caffe.lowered caffe.notices
    caffe.layers.affine caffe.layers.data caffe.layers.detection caffe.layers.elementwise \
    caffe.layers.linear caffe.layers.recurrent caffe.memory
    caffe.layers.shape caffe.layers.spatial
    caffe.layers.batchnorm caffe.layers.normalize
    caffe.layers.table
    caffe.layers caffe.lowering caffe.naming
    caffe.edit caffe.export
    caffe.document
    verification verification.engine verification.inspect verification.judge verification.outcome \
    verification.probes
    verification.inputs verification.verifier
    verification.child
    options
    formats
    pipeline
    report.data
    report report.json_form report.tables
    report.terminal
    cli
    __main__
"""
"""From the ground up, each module once: it imports what stands on a line above its own."""

ROOMS = {
    "protobuf": "",
    "printable": "",
    "content": "protobuf",
    "errors": "printable",
    "files": "errors protobuf",
    "ir": "protobuf",
    "planner": "ir",
    "document": "ir planner protobuf",
    "onnx": "document errors files ir planner protobuf",
    "caffe": "content document errors files ir onnx planner printable protobuf",
    "verification": "document errors ir onnx planner protobuf",
    "options": "caffe errors",
    "formats": "caffe content document errors files onnx options planner protobuf",
    "pipeline": "document errors files formats ir options planner verification",
    "report": "ir pipeline planner printable verification",
    "cli": "errors files options pipeline printable protobuf report",
    "__main__": "cli",
}
"""What each package, and each module beside them, imports of the others."""


def imported(module: str) -> Iterator[tuple[str, str, str]]:
    """What a module imports of the package, wherever it does: module, name in it ("" for the module itself), alias."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            assert not any(name.name.split(".")[0] == "bnfold" for name in node.names), f"{module}: import relatively"
        if not isinstance(node, ast.ImportFrom) or not node.level:
            assert not isinstance(node, ast.ImportFrom) or node.module.split(".")[0] != "bnfold", f"{module}: likewise"
            continue
        parts = package.split(".") if package else []
        base = parts[: len(parts) - node.level + 1] + (node.module.split(".") if node.module else [])
        for name in node.names:
            whole = ".".join([*base, name.name])
            if whole in TREES or whole == GENERATED:
                yield whole, "", name.asname or name.name
            else:
                yield ".".join(base), name.name, name.asname or name.name


def test_imports_run_one_way() -> None:
    lines = FLOORS.splitlines()
    floors = {module: floor for floor, line in enumerate(lines) for module in line.split()}
    assert sorted(floors) == sorted(word for line in lines for word in line.split()), "a module stands here twice"
    assert floors.keys() == TREES.keys() - {""}, "each module of the package stands in FLOORS"
    for module, floor in floors.items():
        for other, _, _ in imported(module):
            if other not in ("", GENERATED):  # the package's face, of which modules take the version
                assert floors[other] < floor, f"{module} imports {other}, which does not stand below it"


def test_rooms_import_what_is_listed() -> None:
    found: dict[str, set[str]] = {module.partition(".")[0]: set() for module in TREES if module}
    for module in TREES:
        for other, _, _ in imported(module) if module else ():
            found[module.partition(".")[0]] |= {other.partition(".")[0]} - {"", module.partition(".")[0]}
    assert found == {room: set(others.split()) for room, others in ROOMS.items()}


# --------------------------------------------------------------------------------------------------------------- names


def top_level(module: str, kinds: type | tuple[type, ...]) -> dict[str, ast.AST]:
    return {node.name: node for node in TREES[module].body if isinstance(node, kinds)}


def used_elsewhere() -> set[tuple[str, str]]:
    """Each name of a module that another one imports, or takes from the imported module."""
    found = set()
    for module, tree in TREES.items():
        aliases = {}
        for other, name, alias in imported(module):
            if name:
                found.add((other, name))
            else:
                aliases[alias] = other
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                found.add((aliases[node.value.id], node.attr))
    return found


def test_a_function_that_only_its_module_uses_begins_with_an_underscore() -> None:
    used = used_elsewhere() | {("pipeline", name) for name in bnfold.__all__}
    entries = {("cli", "main"), ("verification.child", "answer_request")}
    entries |= {(f"report.{form.module}", form.function) for form in FORMS}
    for module in TREES:
        for name in top_level(module, Function):
            private, needed = name.startswith("_"), (module, name) in used | entries
            assert private != needed, f"bnfold.{module}.{name} is {'used elsewhere' if needed else 'used here only'}"


def test_no_two_functions_have_one_name() -> None:
    homes: dict[str, str] = {}
    for module in TREES:
        for name in top_level(module, Function):
            if not name.startswith("__"):
                assert homes.setdefault(name, module) == module, f"{name}: in {homes[name]} and in {module}"


def documented(module: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The public functions and classes of a module, and the public methods of these."""
    for node in TREES[module].body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else ():
            if isinstance(inner, Function) and not inner.name.startswith("_"):
                yield f"{node.name}.{inner.name}", inner


def test_what_is_public_says_what_it_is() -> None:
    for module in TREES:
        for name, node in documented(module):
            overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
            assert overload or ast.get_docstring(node), f"bnfold.{module}.{name} has no docstring"


def test_public_names_work_when_every_module_is_loaded() -> None:
    """A module under `bnfold` that bore the name of a public function would take its place."""
    for found in pkgutil.walk_packages(bnfold.__path__, "bnfold."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in bnfold.__all__:
        assert getattr(bnfold, name) is not None
    with pytest.raises(TypeError, match="argument"):
        bnfold.fold()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument"):
        bnfold.explain()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="argument"):
        bnfold.export()  # type: ignore[call-arg]
    taken = {module for module in TREES if "." not in module}
    assert taken.isdisjoint({*bnfold.__all__, "fold", "plan", "verify", "export", "batch", "explain"})


# --------------------------------------------------------------------------------------------- the architecture page


def test_the_page_shows_every_module() -> None:
    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\w+", page.partition("## The house")[2].partition("\n## ")[0]))
    missing = {module for module in TREES if module and module.rpartition(".")[2] not in shown}
    assert not missing, f"the picture in bnfold/README.md lacks {missing}"


def test_the_page_names_places_that_are_there() -> None:
    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    roots = PACKAGE, Path(__file__).parents[1]  # which are apart where the package is installed
    for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", page.partition("## Where a new thing goes")[2]):
        assert any((root / name).exists() for root in roots), f"the page names {name}, which is not there"


# --------------------------------------------------------------------------------------------------------------- sizes


def length(node: ast.AST) -> int:
    return (getattr(node, "end_lineno", 0) or 0) - getattr(node, "lineno", 0) + 1


def test_modules_and_functions_are_short() -> None:
    for module in TREES:
        path = PACKAGE / Path(*module.split("."))
        path = path / "__init__.py" if module in PACKAGES else path.with_suffix(".py")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 300, f"{path}: {lines} lines"
    lengths = [length(node) for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, Function)]
    assert sum(n < 30 for n in lengths) >= 0.95 * len(lengths)
