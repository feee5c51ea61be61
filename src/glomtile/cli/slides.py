"""The command `segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glomtile.cli.console import progress_display, report_result, slides_table
from glomtile.cli.options import Scheduler, Workers, cluster_of, plausible_mpp, probability
from glomtile.system import import_backend


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Slides, images or folders; local, or s3://bucket/*.svs."),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="DIR", help="Output folder; local, or s3://bucket/out.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", metavar="DIR", help="Model folder, best/ or last/ [default: the bundled model]."
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="UM",
            callback=plausible_mpp,
            help="Micrometres per pixel, 0.05 to 20 [default: the files' own].",
        ),
    ] = None,
    no_tissue_mask: Annotated[
        bool, typer.Option("--no-tissue-mask", help="Also segment windows without tissue.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other settings.")
    ] = False,
    zarr: Annotated[bool, typer.Option("--zarr", help="Also write the masks as OME-Zarr.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also segment slides far coarser than the training images.")
    ] = False,
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="none|flips|rotations|all", help="Test-time augmentation [default: the model's]."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            callback=probability,
            help="Foreground threshold, between 0 and 1 [default: the model's].",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=16, metavar="PX", help="Side of a window [default: the largest that fits]."),
    ] = None,
    memory: Annotated[int, typer.Option(min=64, metavar="MIB", help="Inference memory limit.")] = 1536,
    threads: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Number of reader threads.")] = 2,
    runtime: Annotated[str, typer.Option(metavar="auto|openvino|keras", help="Inference runtime.")] = "auto",
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for temporary copies of remote slides and results.",
        ),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the inputs and the work to do.")
    ] = False,
) -> None:
    """Find, outline and measure glomeruli in slides."""
    from glomtile.inference import batch
    from glomtile.inference.batch import SegmentOptions, runtime_of
    from glomtile.inference.image import TilingSettings
    from glomtile.io.remote import require_persistent

    require_persistent(out)
    settings = TilingSettings(
        tissue_mask=not no_tissue_mask, window_px=window, memory_mb=memory, read_threads=threads, force=force
    )
    options = SegmentOptions(model, mpp, settings, tta, overwrite, zarr, runtime, scratch, threshold)
    if runtime_of(options) == "keras":
        import_backend()
    with progress_display() as progress:
        cluster = cluster_of(scheduler, workers)
        if dry_run:
            plans, failed = batch.dry_run(inputs, out, options, cluster=cluster, progress=progress)
            facts = {"plan": [plan.to_dict() for plan in plans]}
            report_result("segment", (), plans, failed=failed, warnings=progress.warnings, facts=facts)
            return
        from glomtile.report.build import write_report

        try:
            result = batch.segment(inputs, out, options, cluster=cluster, progress=progress)
        except KeyboardInterrupt:
            progress.note("finished slides are kept: the same command continues from there")
            raise
        result = batch.attach_report(result, write_report, progress)

    report_result(
        "segment",
        result.paths,
        failed=result.failed,
        warnings=progress.warnings,
        facts={"images": result.images},
        tables=[slides_table(result.images, result.failed)],
    )
