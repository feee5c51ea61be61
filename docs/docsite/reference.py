"""Reference pages generated from the code while the site is built: settings, commands, Python names.

MkDocs calls `on_files`; the functions above it need no MkDocs, so that tests can call them.
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
from glomtile.config.schema import SECTIONS, key_info
from glomtile.config.toml import toml_value, valid_values

ROOT = Path(__file__).resolve().parents[2]

COMMAND_ORDER = (
    ("Data", ("prepare", "stats")),
    ("Training", ("train", "evaluate", "crossval", "infer", "tiled-infer", "inspect")),
    ("Slides and images", ("segment",)),
    ("Scores", ("score", "report")),
    ("Models", ("export", "ensemble", "import-weights")),
    ("Settings", ("config check", "config convert", "config init")),
    ("Other", ("demo", "info")),
)


# --- settings -----------------------------------------------------------------------------------------


def config_page() -> str:
    """Write the page of all settings: meaning, allowed values, unit, default."""
    parts = [
        "# Settings\n",
        "All keys of a config. TOML and the reference system's INI files have the same",
        "sections and keys; `glomtile config init` prints them as a file to fill in, and",
        "`glomtile config check FILE` lists errors and warnings. Values are in TOML syntax.",
        "Paths are relative to the config's folder. `--set section.key=value` on the command line overrides",
        "one.\n",
        "**+** marks a key that the reference system does not have.\n",
    ]
    for name, settings in SECTIONS.items():
        docs = " ".join((settings.__doc__ or "").split())
        summary = docs.removeprefix(f"[{name}]").removeprefix(":").strip()
        parts.append(f"\n## [{name}] {{#{name}}}\n")
        if summary and not summary.startswith("["):
            parts.append(f"{summary[0].upper()}{summary[1:]}\n")
        rows, others = [], []
        for key, info in settings.model_fields.items():
            row = _setting_row(name, key, info)
            (others if key_info(info).networks or key_info(info).inert else rows).append(
                (row, key_info(info))
            )
        if rows:
            parts += ["| key | meaning | values | unit | default |", "|---|---|---|---|---|"]
            parts += [row for row, _ in rows]
        if others:
            parts.append(f'\n??? note "Recognised, but without effect: {len(others)} keys"\n')
            parts += [
                "    | key | meaning | values | unit | default | reason |",
                "    |---|---|---|---|---|---|",
            ]
            parts += [f"    {row} {_why(known)} |" for row, known in others]
    return "\n".join(parts) + "\n"


def _setting_row(section: str, key: str, info: FieldInfo) -> str:
    known = key_info(info)
    mark = " **+**" if known.ours else ""
    cells = (
        f'<a id="{section}.{key}"></a>`{key}`{mark}',
        _cell(info.description or ""),
        _cell(valid_values(section, key)),
        known.unit or "",
        f"`{toml_value(info.default)}`",
    )
    return "| " + " | ".join(cells) + " |"


def _why(known: Any) -> str:
    return _cell(known.inert) if known.inert else f"a key of {' and '.join(known.networks)}"


def _cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "\\|").replace("_<k>", "_k").replace("*", "\\*")


# --- commands -----------------------------------------------------------------------------------------


def command_tree() -> dict[str, Any]:
    """Return the commands by their full names, such as ``config check``."""
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
    """Write the page of all commands with their arguments and options."""
    tree = command_tree()
    parts = [
        "# Commands\n",
        "`glomtile COMMAND --help` prints the same. `--quiet` prints only warnings and errors, `--verbose`",
        "every stage, `--debug` tracebacks; they may be anywhere on the line.",
        "Paths of results go to stdout, progress to stderr; `--json` prints",
        "[one object](outputs.md#the-json-object) instead. Exit codes: 0 done, 1 some inputs failed (they",
        "are listed last), 2 nothing could start (wrong command line, config, model or output folder),",
        "130 interrupted.\n",
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
    yield "| argument or option | meaning | default |\n|---|---|---|"
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
        return "required"
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    words = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return f"`{words}`" if re.search(r"\w", words) else ""


# --- Python names ---------------------------------------------------------------------------------------


def python_page() -> str:
    """Write the page of public names; mkdocstrings inserts their docstrings."""
    parts = [
        "# Python\n",
        "Public names of `glomtile`. Importing the package is cheap: each name loads",
        "its dependencies at first use. Other names may change without notice.\n",
    ]
    for name in glomtile.__all__:
        home = glomtile._HOMES.get(name, "glomtile.errors")
        parts.append(f"\n## {name} {{#{name}}}\n\n::: {home}.{name}\n")
    return "\n".join(parts)


# --- MkDocs ---------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the changelog and the contributing guide."""
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
