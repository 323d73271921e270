"""The house rules that a reader of bnfold/README.md relies on, held against every module of the package."""

from __future__ import annotations

import ast
import importlib
import pkgutil
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

LAYERS = """
    printable protobuf
    errors
    files ir.graph ir.names
"""
"""From the ground up."""


def imported(module: str) -> Iterator[tuple[str, str, str]]:
    """What a module imports of the package, wherever it does: module, name in it ("" for the module itself), alias."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parts = package.split(".") if package else []
        base = parts[: len(parts) - node.level + 1] + (node.module.split(".") if node.module else [])
        for name in node.names:
            whole = ".".join([*base, name.name])
            if whole in TREES or whole == GENERATED:
                yield whole, "", name.asname or name.name
            else:
                yield ".".join(base), name.name, name.asname or name.name


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
