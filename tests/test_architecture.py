"""Layers, import cycles, forbidden calls, and imports that stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "glomtile"
TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}

CODE_IN_DATA = {"eval", "exec", "compile", "__import__"}
CODE_IN_FILES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def _names(paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in paths]


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _calls(tree: ast.AST) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _allows_pickles(tree: ast.AST) -> bool:
    words = (node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "allow_pickle")
    return any(not (isinstance(word.value, ast.Constant) and word.value.value is False) for word in words)


def test_imports_go_down_only() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    names = {path: _module(path) for path in TREES}
    known = set(names.values())
    targets = {names[path]: _package_imports(tree, known) - {names[path]} for path, tree in TREES.items()}
    while free := {name for name, others in targets.items() if not others & targets.keys()}:
        targets = {name: others for name, others in targets.items() if name not in free}
    assert not sorted(targets)


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package_imports(tree: ast.Module, known: set[str]) -> set[str]:
    """Return the known modules imported at the top level of a module."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside if inside <= known else inside | {str(node.module)}
    return found & known


def test_no_module_runs_code_that_it_reads() -> None:
    assert not _names(path for path, tree in TREES.items() if _calls(tree) & CODE_IN_DATA)
    assert not _names(path for path, tree in TREES.items() if _imports(tree) & CODE_IN_FILES)
    assert not _names(path for path, tree in TREES.items() if _allows_pickles(tree))


def test_networks_know_keras_and_no_backend() -> None:
    nets = {path: tree for path, tree in TREES.items() if path.parent.name == "networks"}
    assert nets
    assert not _names(path for path, tree in nets.items() if _imports(tree) & {"tensorflow", "jax", "torch"})


def test_only_the_command_prints() -> None:
    below = {path: tree for path, tree in TREES.items() if path.parent.name != "cli"}
    assert not _names(path for path, tree in below.items() if "print" in _calls(tree))


def test_modules_are_called_by_their_subject() -> None:
    empty_words = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert not _names(path for path in TREES if empty_words & set(path.stem.split("_")))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import glomtile", ["numpy", "cv2", "keras", "typer", "rich"]),
        ("import glomtile.cli.commands", ["numpy", "cv2", "keras", "rich", "matplotlib", "pydantic"]),
        ("import glomtile.config.load", ["keras", "cv2", "matplotlib", "PIL"]),
        ("import glomtile.tiling.grid, glomtile.io.images, glomtile.io.masks", ["keras", "matplotlib"]),
        ("from glomtile import Palette, load_config, score", ["keras", "tensorflow", "jax", "torch"]),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, forbidden: list[str]) -> None:
    code = f"import sys\n{statement}\nprint(*[name for name in {forbidden!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_every_public_name_can_be_imported() -> None:
    import glomtile

    assert set(glomtile.__all__) <= set(dir(glomtile))
    for name in glomtile.__all__:
        assert getattr(glomtile, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = glomtile.no_such_name
