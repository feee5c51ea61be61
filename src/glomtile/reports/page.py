"""How what is known of a run becomes one HTML file: styles, script and pictures inside, nothing loaded."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from glomtile.reports import text
from glomtile.reports.results import Results

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
    script = files("glomtile.reports").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    return template.render(text=text, r=results, script=script, script_digest=digest)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glomtile.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = lambda cell: f"{float(cell):.3f}" if cell else "–"
    return environment
