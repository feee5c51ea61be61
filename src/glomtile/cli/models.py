"""What the commands about model folders take: export, ensemble, import-weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glomtile.cli.configs import ConfigFile
from glomtile.cli.numbers import plausible_mpp
from glomtile.cli.outcome import report_result
from glomtile.cli.progress import progress_display
from glomtile.system import import_backend


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder: best/ or last/.")],
    fmt: Annotated[
        str, typer.Option("--format", metavar="onnx|openvino|saved-model|bundle", help="What to write.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Where to; ONNX goes into the model folder else."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="float32|float16|int8", help="Of the weights; float32, of a bundle float16."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images that int8 takes its ranges from.")
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="UM", callback=plausible_mpp, help="Micrometres per pixel of those images, 0.05 to 20."
        ),
    ] = None,
) -> None:
    """Write a model for other runtimes, checked."""
    with progress_display() as progress:
        import_backend()
        from glomtile.inference.export import export as verb

        result = verb(
            model, out, fmt=fmt, precision=precision, calibration=calibration, mpp=mpp, progress=progress
        )
        progress.note(f"{result.precision}, {result.bytes:,} bytes; {result.parity}")
    facts = {
        "precision": result.precision,
        "bytes": result.bytes,
        "largest_difference": result.parity.largest,
    }
    report_result("export", [result.path], warnings=progress.warnings, facts=facts)


def ensemble(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Two model folders or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to make.")],
) -> None:
    """Make one model of several: the mean of their answers."""
    with progress_display() as progress:
        import_backend()
        from glomtile.models.ensemble import ensemble as verb

        path = verb(models, out, progress=progress)
    report_result("ensemble", [path], warnings=progress.warnings)


def import_weights(
    weights: Annotated[Path, typer.Argument(metavar="H5", help="A weight file of the reference system.")],
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to make.")],
) -> None:
    """Make a model folder of an older weight file."""
    with progress_display() as progress:
        from glomtile.config.load import load_config

        settings = load_config(config, ())
        for finding in settings.findings:
            progress.warn(str(finding))
        import_backend()
        from glomtile.models.import_weights import import_weights as verb

        path = verb(weights, settings, out, progress=progress)
    report_result("import-weights", [path], warnings=progress.warnings)
