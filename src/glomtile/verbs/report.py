"""Report alone knows that what lies in a folder of results becomes one page in it."""

from __future__ import annotations

from pathlib import Path

from glomtile.errors import InputError
from glomtile.files.workspace import write_text
from glomtile.reports.page import render
from glomtile.reports.results import read_results

REPORT_NAME = "report.html"


def report(folder: Path) -> Path:
    """Write ``report.html`` from what lies in a folder.

    Parameters
    ----------
    folder : Path
        What `score`, `evaluate`, `crossval`, `segment` or `train` wrote: figures and tables, curves,
        ``pictures.json`` that says where the pictures lie, ``summary.csv`` of slides. All but one may be
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
