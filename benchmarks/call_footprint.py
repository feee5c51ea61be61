"""Measure how much of the package one run enters, and how the package is cut into modules.

    python benchmarks/call_footprint.py IMAGE [--root REPOSITORY]

Prints a Markdown table: functions and modules that `glomtile segment IMAGE` enters and loads, modules with
exactly one importer, lines, and docstrings that begin with a question word. The run is made in this process.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

WORDS = ("What", "Who", "Whose", "How", "Where", "Which", "Whether")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--mpp", default="1")
    args = parser.parse_args()
    package = args.root.resolve() / "src" / "glomtile"
    sys.path.insert(0, str(package.parent))
    rows = [*footprint(package, args.image, args.mpp), *layout(package, args.root / "tests")]
    print("| measure | value |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def footprint(package: Path, image: Path, mpp: str) -> list[tuple[str, Any]]:
    """Segment an image in this process and count what of the package it enters."""
    entered: dict[str, set[str]] = defaultdict(set)
    prefix = str(package) + "/"

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(prefix):
            entered[code.co_filename].add(f"{code.co_qualname}:{code.co_firstlineno}")

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        sys.argv = ["glomtile", "segment", str(image), "-o", out, "--mpp", mpp]
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            from glomtile.__main__ import main as command

            code = command()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    named = {name: {one for one in ones if not _comprehension(one)} for name, ones in entered.items()}
    called = {name: ones for name, ones in named.items() if ones}
    loaded = [name for name in sys.modules if name.split(".")[0] == "glomtile"]
    return [
        ("exit code of `segment`", code),
        ("functions entered", sum(map(len, called.values()))),
        ("modules whose functions were entered", len(called)),
        ("modules loaded", len(loaded)),
    ]


def _comprehension(name: str) -> bool:
    """Recognise code that is no function or method: modules, class bodies, comprehensions."""
    words = ("<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
    last = name.split(":")[0].split(".")[-1]
    return last in words or (last[:1].isupper() and last.isidentifier())


def layout(package: Path, tests: Path) -> list[tuple[str, Any]]:
    """Count modules, lines, importers and docstrings without running anything."""
    files = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for target in _imports(tree, name, files):
            if target != name:
                importers[target].add(name)
    modules = [name for name, path in files.items() if path.name not in ("__init__.py", "__main__.py")]
    single = sorted(name for name in modules if len(importers[name]) == 1)
    first = Counter(word for tree in trees.values() for word in _first_words(tree))
    return [
        ("modules in src (without `__init__`, `__main__`)", len(modules)),
        ("all Python files in src", len(files)),
        ("lines in src", sum(_lines(path) for path in files.values())),
        ("lines in tests", sum(_lines(path) for path in tests.rglob("*.py"))),
        ("modules with exactly one importer", f"{len(single)} ({len(single) / len(modules):.0%})"),
        ("modules without an importer", sum(not importers[name] for name in modules)),
        ("docstrings", sum(first.values())),
        *((f"docstrings that begin with {word}", first[word]) for word in WORDS),
        ("docstrings that begin with any of these", sum(first[word] for word in WORDS)),
        ("the modules with one importer", ", ".join(one.removeprefix("glomtile.") for one in single)),
    ]


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, name: str, files: dict[str, Path]) -> set[str]:
    """Find the modules of the package that a module imports, anywhere in it."""
    found = set()
    inside = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = inside.rsplit(".", node.level - 1)[0]
                base = f"{parent}.{base}".rstrip(".")
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(files)
            rest = {alias.name for alias in node.names if f"{base}.{alias.name}" not in files}
            found |= submodules | ({base} if rest else set())
    return found & set(files)


def _first_words(tree: ast.Module) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text.split()[0].strip(",.:;") for text in texts if text and text.split()]


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


if __name__ == "__main__":
    main()
