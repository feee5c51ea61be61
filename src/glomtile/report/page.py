"""The report page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from glomtile.errors import InputError
from glomtile.io.atomic import write_text
from glomtile.report import text
from glomtile.report.results import Results, read_results

if TYPE_CHECKING:
    from jinja2 import Environment


def render(results: Results) -> str:
    """The page.

    Parameters
    ----------
    results : Results

    Returns
    -------
    str
        HTML. Every name in it is text: templates escape, and the page's own policy lets run no script but
        the one that comes with the package, and load nothing.
    """
    template = _environment().get_template("report.html")
    script = files("glomtile.report").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    return template.render(text=text, r=results, script=script, script_digest=digest)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glomtile.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = lambda cell: f"{float(cell):.3f}" if cell else "–"
    return environment


REPORT_NAME = "report.html"


def report(folder: Path) -> Path:
    """Write ``report.html`` from what lies in a folder.

    Parameters
    ----------
    folder : Path
        What `score`, `evaluate`, `crossval`, `segment` or `train` wrote: figures and tables, curves,
        ``images.json`` that says where the pictures lie, ``summary.csv`` of slides. All but one may be
        missing.

    Returns
    -------
    Path
        The page: one file, pictures inside, nothing loaded from anywhere.

    Raises
    ------
    InputError
        When the folder cannot be read, holds none of these, or ``scores.json`` or ``run.json`` is not as
        we write it. A picture or table that cannot be read is left out, and the page says so.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "expected a folder of results, got none")
    path = folder / REPORT_NAME
    write_text(path, render(read_results(folder)))
    return path
