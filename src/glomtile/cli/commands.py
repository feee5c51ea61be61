"""Commands, their arguments and options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

import glomtile
from glomtile.cli.console import (
    FLAGS,
    Column,
    ProgressDisplay,
    Table,
    print_object,
    print_tables,
    progress_display,
    refuse_json,
    report_result,
    runs_table,
    scores_tables,
    slides_table,
)
from glomtile.errors import ArgumentError, ConfigError, GlomtileError, UsageError
from glomtile.system import import_backend

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.config.schema import Config
    from glomtile.palette import Palette

app = typer.Typer(
    name="glomtile",
    help="Find, count and measure glomeruli in images of kidney tissue; train and evaluate networks.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
config_app = typer.Typer(help="Check, convert or create a config file.", no_args_is_help=True)
app.add_typer(config_app, name="config")


def in_range(low: float, high: float, unit: str = "") -> Callable[[Any], Any]:
    """Return a check that numbers are within `low` to `high`; NaN is not."""

    def check(value: Any) -> Any:
        from glomtile.validation import number_argument

        if value is None:
            return None
        try:
            if isinstance(value, tuple):
                return tuple(number_argument("", one, low, high, unit) for one in value)
            return number_argument("", value, low, high, unit)
        except ArgumentError as problem:
            raise typer.BadParameter(problem.message) from problem

    return check


def probability(value: float | None) -> float | None:
    """Check that a number is between 0 and 1, both excluded."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"expected a number between 0 and 1, got {value}")
    return value


plausible_mpp = in_range(0.05, 20, "µm per pixel")

ConfigFile = Annotated[Path, Argument(metavar="CONFIG", help="INI or TOML file of settings.")]
Overrides = Annotated[
    list[str] | None, Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable.")
]
OutFolder = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Output folder.")]
OptionalMpp = Annotated[
    float | None,
    Option(metavar="UM", callback=plausible_mpp, help="Micrometres per pixel of the images, 0.05 to 20."),
]
RgbMap = Annotated[
    str | None,
    Option(metavar="MAP", help='Colours of the classes in masks [default: "{(0,0,0):0,(255,0,0):1}"].'),
]
Tolerance = Annotated[
    int,
    Option(
        min=0, max=255, metavar="N", help="Largest difference of a mask's colour, for JPEG masks for example."
    ),
]
Against = Annotated[Path | None, Option(metavar="DIR", help="Other predictions, for paired differences.")]
Scheduler = Annotated[
    str | None, Option(metavar="URL", help="Run on the workers of a Dask scheduler, tcp://host:8786.")
]
Workers = Annotated[int | None, Option(min=1, metavar="N", help="Run in N local processes side by side.")]


def cluster_of(scheduler: str | None, workers: int | None) -> Cluster | None:
    """Return the cluster of ``--scheduler`` or ``--workers``, None without either."""
    if scheduler is None and workers is None:
        return None
    from glomtile.cluster import Cluster

    if scheduler is not None and workers is not None:
        raise UsageError("--workers", "expected a scheduler or a number of workers, got both")
    return Cluster(scheduler, workers)


def palette_of(rgb_map: str | None) -> Palette:
    """Return the palette of ``--rgb-map``."""
    from glomtile.config.ini import read_literal
    from glomtile.palette import GLOMERULI, Palette

    if rgb_map is None:
        return GLOMERULI
    try:
        return Palette.from_rgb_map(dict(read_literal(rgb_map).value))  # type: ignore[call-overload]
    except ConfigError as error:
        raise UsageError("--rgb-map", error.message, error.hint) from error
    except (ValueError, TypeError) as error:
        expected = 'colours and class numbers like "{(0,0,0):0,(255,0,0):1}"'
        raise ArgumentError("rgb_map", expected, rgb_map) from error


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"glomtile {glomtile.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print only warnings and errors.")] = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Verbose output.")] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Print tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    # Declared for --help: `parse_global_options` has taken them out of the line, from any position. A
    # docstring would replace the help of the app.
    del quiet, verbose, json, debug, version


@app.command()
def prepare(
    images: Annotated[Path, Argument(metavar="IMAGES", help="Folder of images or slides.")],
    masks: Annotated[
        Path,
        Argument(metavar="MASKS", help="Folder of masks, or of GeoJSON files of QuPath, of the same names."),
    ],
    out: OutFolder,
    tile: Annotated[int, Option(min=16, metavar="PX", help="Side of a tile, in pixels.")] = 512,
    split: Annotated[
        tuple[float, float, float],
        Option(metavar="TRAIN VALID TEST", callback=in_range(0, 1), help="Shares of the images, sum 1."),
    ] = (0.7, 0.15, 0.15),
    groups: Annotated[
        Path | None, Option(metavar="CSV", help="Table stem,group[,split]; images of a group stay together.")
    ] = None,
    seed: Annotated[int, Option(help="Random seed.")] = 137,
    keep_empty: Annotated[
        float, Option(metavar="SHARE", callback=in_range(0, 1), help="Share of background tiles to keep.")
    ] = 1.0,
    mini_test: Annotated[
        Path | None, Option(metavar="DIR", help="Also copy the whole test images and masks to DIR.")
    ] = None,
    border: Annotated[
        str, Option(metavar="reflect|even", help="Mirror the image at its border, or space the tiles evenly.")
    ] = "reflect",
    rgb_map: RgbMap = None,
    tolerance: Tolerance = 0,
    indexed: Annotated[bool, Option("--indexed", help="Masks contain class numbers, not colours.")] = False,
    mpp: Annotated[
        float | None,
        Option(
            metavar="UM",
            callback=plausible_mpp,
            help="Micrometres per pixel of the tiles of annotated slides, 0.05 to 20.",
        ),
    ] = None,
) -> None:
    """Cut images and masks into tiles; split them."""
    from glomtile.datasets.prepare import prepare as run_prepare

    with progress_display() as progress:
        result = run_prepare(
            images,
            masks,
            out,
            tile_px=tile,
            split=split,
            groups=groups,
            seed=seed,
            keep_empty=keep_empty,
            mini_test=mini_test,
            palette=palette_of(rgb_map),
            border=border,
            tolerance=tolerance,
            datatype="indexed" if indexed else "categorized",
            mpp=mpp,
            progress=progress,
        )
    facts = {"images": result.images, "tiles": result.tiles}
    report_result("prepare", result.paths, warnings=progress.warnings, facts=facts)


@app.command()
def stats(
    target: Annotated[Path, Argument(metavar="DATASET|CONFIG", help="Dataset folder or config.")],
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="DIR", help="Output folder [default: beside it].")
    ] = None,
    augmented: Annotated[
        bool, Option("--augmented", help="Only a sheet of augmented training samples.")
    ] = False,
) -> None:
    """Plot counts, class shares, sizes and samples."""
    with progress_display() as progress:
        if augmented:
            from glomtile.training.samples import draw_augmented

            paths = [draw_augmented(target, out, progress=progress)]
        else:
            from glomtile.datasets.statistics import stats as run_stats

            paths = run_stats(target, out, progress=progress).paths
    report_result("stats", paths, warnings=progress.warnings)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, Option("--resume", help="Continue after the last finished epoch.")] = False,
) -> None:
    """Train a network; a previous run is moved aside."""
    with _configured(config, overrides) as (settings, progress):
        from glomtile.training.train import train as run_train

        try:
            result = run_train(settings, resume=resume, progress=progress)
        except KeyboardInterrupt:
            progress.note("finished epochs are kept: the same command with --resume continues from there")
            raise
        progress.note(f"best epoch {result.best_epoch} of {len(result.history)}; {result.reason}")
    facts = {
        "best": str(result.best),
        "last": str(result.last),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "reason": result.reason,
        "figures": result.history[result.best_epoch - 1] if result.history else {},
    }
    report_result("train", result.paths, warnings=progress.warnings, facts=facts)


@app.command()
def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Score the trained network on the test images."""
    with _configured(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import evaluate as run_evaluate
        from glomtile.report.build import write_report

        result = run_evaluate(settings, progress=progress)
        paths = (*result.paths, write_report(result.folder))
    outcome = _read_scores(paths)
    facts = {**outcome, "loss": result.loss, "metric": result.metric}
    report_result("evaluate", paths, warnings=progress.warnings, facts=facts, tables=scores_tables(outcome))


@app.command()
def crossval(
    config: ConfigFile,
    out: OutFolder,
    overrides: Overrides = None,
    folds: Annotated[int, Option(min=2, max=99, metavar="K", help="Number of folds.")] = 4,
    name: Annotated[
        str | None, Option(metavar="NAME", help="Name of the run [default: the config's].")
    ] = None,
    groups: Annotated[
        Path | None, Option(metavar="CSV", help="Table stem,group[,use]; use is empty, train or judge.")
    ] = None,
    against: Against = None,
    vary: Annotated[
        list[str] | None,
        Option(
            metavar="SECTION.KEY=VALUE", help="Vary a setting; repeatable, with a run for each combination."
        ),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
) -> None:
    """Cross-validate: score each image out of fold."""
    with _configured(config, overrides) as (settings, progress):
        from glomtile.evaluation.cross_validation import crossval as run_crossval
        from glomtile.evaluation.cross_validation import sweep, variants
        from glomtile.report.build import write_report

        options: dict[str, Any] = {"folds": folds, "groups": groups, "against": against, "progress": progress}
        options["cluster"] = cluster_of(scheduler, workers)
        try:
            if vary:
                results = sweep(variants(config, overrides or (), vary, name), out, **options)
            else:
                results = {name or "": run_crossval(settings, out, name=name, **options)}
        except KeyboardInterrupt:
            progress.note("finished epochs are kept: the same command continues from there")
            raise
        parts = [part for run in results.values() for part in (run.scores, run.trusted) if part is not None]
        pages = [write_report(part.folder) for part in parts]
    runs = {
        run: {
            **_read_scores(result.scores.paths),
            "trusted": (result.trusted and _read_scores(result.trusted.paths)) or None,
            "folds": [str(fold) for fold in result.folds],
        }
        for run, result in results.items()
    }
    if vary:
        facts, tables = {"runs": runs}, [runs_table(runs)]
    else:
        (facts,) = runs.values()
        tables = [*scores_tables(facts), *scores_tables(facts["trusted"] or {}, "also trained on")]
    paths = dict.fromkeys([*(path for result in results.values() for path in result.paths), *pages])
    report_result("crossval", paths, warnings=progress.warnings, facts=facts, tables=tables)


@app.command()
def infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Segment images, each resized to the network's input."""
    with _configured(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import infer as run_infer

        result = run_infer(settings, progress=progress)
    report_result("infer", result.done, failed=result.failed, warnings=progress.warnings)


@app.command()
def tiled_infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Segment images in overlapping tiles at full scale."""
    with _configured(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import tiled_infer as run_tiled_infer

        result = run_tiled_infer(settings, progress=progress)
    report_result("tiled-infer", result.done, failed=result.failed, warnings=progress.warnings)


@app.command()
def inspect(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="DIR", help="Output folder [default: the config's].")
    ] = None,
) -> None:
    """List the network's layers, memory and work."""
    with _configured(config, overrides) as (settings, progress):
        from glomtile.cli.info import inspect as run_inspect

        result = run_inspect(settings, out)
    report_result("inspect", [result.summary], warnings=progress.warnings)


@app.command()
def segment(
    inputs: Annotated[
        list[str],
        Argument(metavar="INPUT...", help="Slides, images or folders; local, or s3://bucket/*.svs."),
    ],
    out: Annotated[
        str, Option("--out", "-o", metavar="DIR", help="Output folder; local, or s3://bucket/out.")
    ],
    model: Annotated[
        Path | None,
        Option(
            "--model", "-m", metavar="DIR", help="Model folder, best/ or last/ [default: the bundled model]."
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        Option(
            metavar="UM",
            callback=plausible_mpp,
            help="Micrometres per pixel, 0.05 to 20 [default: the files' own].",
        ),
    ] = None,
    no_tissue_mask: Annotated[
        bool, Option("--no-tissue-mask", help="Also segment windows without tissue.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace results of other settings.")] = False,
    zarr: Annotated[bool, Option("--zarr", help="Also write the masks as OME-Zarr.")] = False,
    force: Annotated[
        bool, Option("--force", help="Also segment slides far coarser than the training images.")
    ] = False,
    tta: Annotated[
        str | None,
        Option(metavar="none|flips|rotations|all", help="Test-time augmentation [default: the model's]."),
    ] = None,
    threshold: Annotated[
        float | None,
        Option(
            metavar="P",
            callback=probability,
            help="Foreground threshold, between 0 and 1 [default: the model's].",
        ),
    ] = None,
    window: Annotated[
        int | None, Option(min=16, metavar="PX", help="Side of a window [default: the largest that fits].")
    ] = None,
    memory: Annotated[int, Option(min=64, metavar="MIB", help="Inference memory limit.")] = 1536,
    threads: Annotated[int, Option(min=1, max=256, metavar="N", help="Number of reader threads.")] = 2,
    runtime: Annotated[str, Option(metavar="auto|openvino|keras", help="Inference runtime.")] = "auto",
    scratch: Annotated[
        Path | None, Option(metavar="DIR", help="Folder for temporary copies of remote slides and results.")
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only list the inputs and the work to do.")] = False,
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


@app.command()
def score(
    predictions: Annotated[Path, Argument(metavar="PREDICTIONS", help="Folder of predicted masks.")],
    truth: Annotated[Path, Argument(metavar="TRUTH", help="Folder of true masks of the same names.")],
    out: OutFolder,
    rgb_map: RgbMap = None,
    tolerance: Tolerance = 0,
    groups: Annotated[
        Path | None, Option(metavar="CSV", help="Table stem,group; intervals are over the groups.")
    ] = None,
    mpp: OptionalMpp = None,
    images: Annotated[
        Path | None, Option(metavar="DIR", help="The images, for the report and contact sheets.")
    ] = None,
    against: Against = None,
) -> None:
    """Score a folder of masks against the truth."""
    from glomtile.evaluation.score import score as run_score
    from glomtile.report.build import write_report

    with progress_display() as progress:
        result = run_score(
            predictions,
            truth,
            out,
            palette=palette_of(rgb_map),
            tolerance=tolerance,
            groups=groups,
            mpp=mpp,
            images=images,
            against=against,
            progress=progress,
        )
        paths = (*result.paths, write_report(result.folder))
    outcome = _read_scores(paths)
    report_result("score", paths, warnings=progress.warnings, facts=outcome, tables=scores_tables(outcome))


@app.command()
def report(folder: Annotated[Path, Argument(metavar="DIR", help="Folder of results.")]) -> None:
    """Write report.html of a folder of results."""
    from glomtile.report.build import write_report

    report_result("report", [write_report(folder)])


@app.command()
def export(
    model: Annotated[Path, Argument(metavar="MODEL", help="Model folder, best/ or last/.")],
    fmt: Annotated[
        str, Option("--format", metavar="onnx|openvino|saved-model|bundle", help="Format.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        Option("--out", "-o", metavar="PATH", help="Output path [default of ONNX: the model folder]."),
    ] = None,
    precision: Annotated[
        str | None,
        Option(
            metavar="float32|float16|int8",
            help="Precision of the weights [default: float32; bundle: float16].",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, Option(metavar="DIR", help="Images for the calibration of int8.")
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


@app.command()
def ensemble(
    models: Annotated[list[Path], Argument(metavar="MODEL...", help="Model folders, at least two.")],
    out: OutFolder,
) -> None:
    """Combine models; average their predictions."""
    with progress_display() as progress:
        import_backend()
        from glomtile.models.ensemble import ensemble as run_ensemble

        path = run_ensemble(models, out, progress=progress)
    report_result("ensemble", [path], warnings=progress.warnings)


@app.command("import-weights")
def import_weights(
    weights: Annotated[Path, Argument(metavar="H5", help="Weight file of the reference system.")],
    config: ConfigFile,
    out: OutFolder,
) -> None:
    """Convert a weight file of the reference system."""
    with _configured(config, None) as (settings, progress):
        from glomtile.models.import_weights import import_weights as run_import

        path = run_import(weights, settings, out, progress=progress)
    report_result("import-weights", [path], warnings=progress.warnings)


@app.command()
def demo(out: OutFolder) -> None:
    """Run the whole workflow on synthetic biopsies."""
    import_backend()
    from glomtile.cli.demo import demo as run_demo

    with progress_display() as progress:
        paths = run_demo(out, progress=progress)
    report_result("demo", paths, warnings=progress.warnings)


@app.command()
def networks() -> None:
    """List networks and encoders with their cost."""
    import_backend()
    from glomtile.cli.info import network_facts

    facts = network_facts()
    if FLAGS.get().json:
        print_object("networks", {"exit_code": 0, "networks": facts})
        return
    names = ("parameters", "GFLOP per Mpx", "stride", "context", "local")
    columns = (
        Column("model"),
        Column("encoder"),
        *(Column(name, right=True) for name in names),
        Column("weights"),
    )
    rows = [
        (
            [
                one["model"],
                one["encoder"] or "",
                f"{one['parameters']:,}",
                f"{one['gflop_per_mpx']:.1f}",
                f"{one['stride_px']} px",
                f"{one['context_px']:,} px",
                "yes" if one["local"] else "no",
                f"{one['weights']} ({one['licence']})" if one["weights"] else "random",
            ],
            "",
        )
        for one in facts
    ]
    print_tables((Table(columns, rows),), sys.stdout)


@app.command()
def info(
    slides: Annotated[
        list[Path] | None, Argument(metavar="[SLIDE...]", help="Slides or images to describe instead.")
    ] = None,
) -> None:
    """Print versions and devices, or facts of slides."""
    from glomtile.cli.info import describe_installation, describe_slide, installation_facts, slide_facts
    from glomtile.system import quiet_import

    if not slides:
        with quiet_import():
            facts = installation_facts()
        if FLAGS.get().json:
            print_object("info", {"exit_code": 0, "installation": facts})
        else:
            typer.echo(describe_installation(facts))
        return
    found, failed = [], []
    for path in slides:
        try:
            found.append(slide_facts(path))
        except GlomtileError as problem:
            failed.append((path, problem.message))
    report_result("info", (), map(describe_slide, found), failed=failed, facts={"slides": found})


@config_app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print every finding; exit with 2 if one is an error."""
    from glomtile.config.load import check_config

    findings = check_config(config, overrides or ())
    wrong = any(finding.severity == "error" for finding in findings)
    if FLAGS.get().json:
        keys = ("severity", "file", "line", "section", "key", "message")
        listed = [{key: getattr(finding, key) for key in keys} for finding in findings]
        print_object("config check", {"exit_code": 2 if wrong else 0, "findings": listed})
    else:
        if not findings and not FLAGS.get().quiet:
            typer.echo(f"{config}: no findings", err=True)
        for finding in findings:
            typer.echo(f"{finding.severity}: {finding}")
    if wrong:
        raise typer.Exit(2)


@config_app.command()
def convert(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the same settings as TOML."""
    from glomtile.config.load import load_config
    from glomtile.config.toml import to_toml

    refuse_json("config convert")
    typer.echo(to_toml(load_config(config, overrides or ())), nl=False)


@config_app.command()
def init(
    pretrained: Annotated[
        str | None,
        Option(metavar="MODEL", help="Settings for fine-tuning this model: glomeruli-pas or a model folder."),
    ] = None,
) -> None:
    """Print a commented TOML config."""
    from glomtile.config.toml import template

    refuse_json("config init")
    if pretrained is None:
        typer.echo(template(), nl=False)
        return
    from glomtile.models.pretrained import named

    typer.echo(template(named(pretrained)), nl=False)


@contextmanager
def _configured(
    config: Path, overrides: Sequence[str] | None, *, trained: bool = False
) -> Iterator[tuple[Config, ProgressDisplay]]:
    """Load a config, print its findings, check that its model exists, import the backend."""
    from glomtile.config.load import load_config

    with progress_display() as progress:
        settings = load_config(config, overrides or ())
        for finding in settings.findings:
            progress.warn(str(finding))
        if trained:
            from glomtile.models.folder import read_card, read_whole

            read_whole(settings.resolve(settings.train.model_dir) / settings.train.use, read_card)
        import_backend()
        yield settings, progress


def _read_scores(paths: Iterable[Path]) -> dict[str, Any]:
    """Read the ``scores.json`` among the paths of a result, if there is one."""
    from glomtile.evaluation.score import read_scores

    written = next((path for path in paths if path.name == "scores.json" and path.is_file()), None)
    return {} if written is None else read_scores(written.parent)
