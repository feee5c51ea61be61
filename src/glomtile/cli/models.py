"""Commands for model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glomtile.cli.console import progress_display, report_result
from glomtile.cli.options import ConfigFile, OptionalMpp, OutFolder
from glomtile.system import import_backend


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, best/ or last/.")],
    fmt: Annotated[
        str, typer.Option("--format", metavar="onnx|openvino|saved-model|bundle", help="Format.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Output path [default of ONNX: the model folder]."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float32|float16|int8",
            help="Precision of the weights [default: float32; bundle: float16].",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images for the calibration of int8.")
    ] = None,
    mpp: OptionalMpp = None,
) -> None:
    """Export a model to other runtimes."""
    with progress_display() as progress:
        import_backend()
        from glomtile.inference.export import export as run_export

        result = run_export(
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
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Model folders, at least two.")],
    out: OutFolder,
) -> None:
    """Combine models; average their predictions."""
    with progress_display() as progress:
        import_backend()
        from glomtile.models.ensemble import ensemble as run_ensemble

        path = run_ensemble(models, out, progress=progress)
    report_result("ensemble", [path], warnings=progress.warnings)


def import_weights(
    weights: Annotated[Path, typer.Argument(metavar="H5", help="Weight file of the reference system.")],
    config: ConfigFile,
    out: OutFolder,
) -> None:
    """Convert a weight file of the reference system."""
    with progress_display() as progress:
        from glomtile.config.load import load_config

        settings = load_config(config, ())
        for finding in settings.findings:
            progress.warn(str(finding))
        import_backend()
        from glomtile.models.import_weights import import_weights as run_import

        path = run_import(weights, settings, out, progress=progress)
    report_result("import-weights", [path], warnings=progress.warnings)
