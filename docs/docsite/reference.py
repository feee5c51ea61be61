"""Pages of reference written from the code while the site is built: settings, commands, Python names.

MkDocs calls `on_files`; the functions above it are pure and need no MkDocs, so that the tests can ask them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from typer.main import get_command

import glomtile
from glomtile.cli.commands import app
from glomtile.config.fields import about
from glomtile.config.schema import SECTIONS
from glomtile.config.toml import spelt, wanted

ROOT = Path(__file__).resolve().parents[2]

COMMAND_ORDER = (
    ("Data", ("prepare", "stats")),
    ("Training", ("train", "evaluate", "crossval", "infer", "tiled-infer", "inspect")),
    ("Slides and pictures", ("segment",)),
    ("Figures", ("score", "report")),
    ("Models", ("export", "ensemble", "import-weights")),
    ("Settings", ("config check", "config convert", "config init")),
    ("The rest", ("demo", "info")),
)


# --- settings -----------------------------------------------------------------------------------------


def config_page() -> str:
    """Every key of every section: what it is, what it may be, unit, default."""
    parts = [
        "# Settings\n",
        "Every key that a config may hold. TOML and the reference system's INI dialect have the same",
        "sections and keys; `glomtile config init` prints them as a file to fill in, and",
        "`glomtile config check FILE` tells what is wrong with one. Values are written as TOML has them.",
        "Paths are relative to the config's folder. `--set section.key=value` on a command's line changes",
        "one.\n",
        "**+** marks a key that the reference system does not know.\n",
    ]
    for name, settings in SECTIONS.items():
        docs = " ".join((settings.__doc__ or "").split())
        told = docs.removeprefix(f"[{name}]").removeprefix(":").strip()
        parts.append(f"\n## [{name}] {{#{name}}}\n")
        if told and not told.startswith("["):
            parts.append(f"{told[0].upper()}{told[1:]}\n")
        rows, others = [], []
        for key, info in settings.model_fields.items():
            row = _setting_row(name, key, info)
            (others if about(info).networks or about(info).inert else rows).append((row, about(info)))
        if rows:
            parts += ["| key | what | may be | unit | default |", "|---|---|---|---|---|"]
            parts += [row for row, _ in rows]
        if others:
            parts.append(f'\n??? note "Read, and without effect here: {len(others)} keys"\n')
            parts += ["    | key | what | may be | unit | default | why |", "    |---|---|---|---|---|---|"]
            parts += [f"    {row} {_why(known)} |" for row, known in others]
    return "\n".join(parts) + "\n"


def _setting_row(section: str, key: str, info: FieldInfo) -> str:
    known = about(info)
    mark = " **+**" if known.ours else ""
    cells = (
        f'<a id="{section}.{key}"></a>`{key}`{mark}',
        _cell(info.description or ""),
        _cell(wanted(section, key, info)),
        known.unit or "",
        f"`{spelt(info.default)}`",
    )
    return "| " + " | ".join(cells) + " |"


def _why(known: Any) -> str:
    return _cell(known.inert) if known.inert else f"a key of {' and '.join(known.networks)}"


def _cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "\\|").replace("_<k>", "_k").replace("*", "\\*")


# --- commands -----------------------------------------------------------------------------------------


def command_tree() -> dict[str, Any]:
    """Commands by what is typed: ``config check`` beside ``train``."""
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
            return
        for word, sub in inner.items():
            walk(sub, f"{name} {word}".strip())

    walk(get_command(app), "")
    return found


def commands_page() -> str:
    """Every command with its arguments and options."""
    tree = command_tree()
    parts = [
        "# Commands\n",
        "`glomtile COMMAND --help` says the same. `--quiet` tells only warnings and errors, `--verbose` of",
        "every stage, `--debug` shows where an error came from; they may stand anywhere on the line.",
        "Paths of results go to stdout, progress to stderr; `--json` prints",
        "[one object](outputs.md#the-object-of-json) instead. Exit codes: 0 done, 1 some inputs failed (they",
        "are listed last), 2 nothing could begin (a wrong command line, config, model or place for results),",
        "130 stopped.\n",
    ]
    listed = [name for _, names in COMMAND_ORDER for name in names]
    for title, names in (*COMMAND_ORDER, ("Others", tuple(sorted(set(tree) - set(listed))))):
        known = [name for name in names if name in tree]
        if known:
            parts.append(f"\n## {title}\n")
        for name in known:
            parts += _command(name, tree[name])
    return "\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    needed = [
        p.metavar if p.param_type_name == "argument" else f"{p.opts[0]} {p.metavar}"
        for p in command.params
        if p.required
    ]
    usage = " ".join(["glomtile", name, *needed])
    yield f"\n### {name}\n\n{command.get_short_help_str(200)}\n\n```text\n{usage}\n```\n"
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    if not shown:
        return
    yield "| argument or option | what | default |\n|---|---|---|"
    for parameter in shown:
        yield _parameter(parameter)


def _parameter(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        typed = f"`{metavar}`"
    else:
        flag = bool(getattr(parameter, "is_flag", False))
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        typed = names if flag else f"{names} `{metavar}`"
    text = getattr(parameter, "help", None) or ""
    limits = _limits(parameter) or _limits(getattr(parameter, "type", None))
    return f"| {typed} | {_cell(text)}{limits} | {_default(parameter)} |"


def _limits(kind: Any) -> str:
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        return f" From {low:g} to {high:g}."
    return f" At least {low:g}." if low is not None else ""


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    words = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return f"`{words}`" if re.search(r"\w", words) else ""


# --- Python names ---------------------------------------------------------------------------------------


def python_page() -> str:
    """The public names; their docstrings are put in by mkdocstrings."""
    parts = [
        "# Python\n",
        "What `from glomtile import …` offers. Importing `glomtile` loads nothing heavy: each name brings",
        "what it needs when it is first used. What is not listed here may change without notice.\n",
    ]
    for name in glomtile.__all__:
        home = glomtile._HOMES.get(name, "glomtile.errors")
        parts.append(f"\n## {name} {{#{name}}}\n\n::: {home}.{name}\n")
    return "\n".join(parts)


# --- MkDocs ---------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages; the changelog and the rules for contributors come from the root."""
    from mkdocs.structure.files import File

    pages = {
        "settings.md": config_page(),
        "commands.md": commands_page(),
        "python.md": python_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "]("),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text("utf-8").replace("](docs/", "]("),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
