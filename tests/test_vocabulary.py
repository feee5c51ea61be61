"""Plain vocabulary: no private words in code, messages, help and pages; usual first lines of docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "glomtile"

# Words of the project's former private language, and what to write instead.
PRIVATE_WORDS = {
    "album": "byte budget of thumbnails",
    "ancestor": "parent model",
    "ancestors": "parent models",
    "asking": "prediction settings",
    "claims": "lock",
    "crew": "worker pool",
    "doubt": "quality flag",
    "doubted": "flagged",
    "doubtful": "flagged",
    "doubts": "quality flags",
    "familiar": "reference statistics",
    "floors": "layers",
    "greeting": "startup message",
    "handed": "assigned, passed",
    "heard": "recorded",
    "invented": "false positive",
    "leftovers": "stale temporary files",
    "phantom": "synthetic biopsy",
    "phantoms": "synthetic biopsies",
    "picture": "image",
    "pictures": "images",
    "ruler": "scale estimator",
    "seat": "worker",
    "tell": "report, state, print",
    "tells": "reports, states",
    "told": "reported, stated",
    "trouble": "error",
    "verbs": "commands",
}

NAMES_FORMER_OUTPUTS = {"CHANGELOG.md", "benchmarks/golden_compare.py"}
"""Files that list former names; in these, code is left out."""

INDIRECT_QUESTIONS = {"What", "Who", "Whose", "How", "Where", "Which", "Whether"}


def _files() -> list[Path]:
    code = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".html", ".js", ".css", ".toml"}]
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "docsite").glob("*.py")]
    return sorted([*code, *pages, *scripts])


def _words(text: str) -> list[str]:
    """Split text into lower-case words; identifiers are split at underscores and capitals."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_word_is_used(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.relative_to(ROOT).as_posix() in NAMES_FORMER_OUTPUTS:
        text = re.sub(r"`[^`\n]*`|\"[^\"\n]*\"", "", text)
    text = text.replace(".tell(", "(")  # the position in a file
    found = {
        f"line {number}: {word!r}, write {PRIVATE_WORDS[word]!r}"
        for number, line in enumerate(text.splitlines(), 1)
        for word in set(_words(line)) & PRIVATE_WORDS.keys()
    }
    assert not found


def test_no_docstring_opens_with_an_indirect_question() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            if text.split(maxsplit=1)[:1] and text.split(maxsplit=1)[0] in INDIRECT_QUESTIONS:
                line = getattr(node, "lineno", 1)
                found.append(f"{path.relative_to(ROOT)}:{line}: {text[:60]}")
    assert not found
