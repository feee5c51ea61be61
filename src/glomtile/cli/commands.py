"""Commands and their options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import glomtile
from glomtile.cli import configs, models, slides
from glomtile.cli.console import (
    FLAGS,
    ProgressDisplay,
    Table,
    print_object,
    progress_display,
    report_result,
    runs_table,
    scores_tables,
)
from glomtile.cli.options import (
    Against,
    ConfigFile,
    OptionalMpp,
    OutFolder,
    Overrides,
    RgbMap,
    Scheduler,
    Tolerance,
    Workers,
    cluster_of,
    in_range,
    palette_of,
    plausible_mpp,
)
from glomtile.errors import GlomtileError
from glomtile.system import import_backend

if TYPE_CHECKING:
    from glomtile.config.schema import Config
    from glomtile.evaluation.cross_validation import CrossvalResult

app = typer.Typer(
    name="glomtile",
    help="Find, count and measure glomeruli in images of kidney tissue; train and evaluate networks.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(configs.app, name="config")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"glomtile {glomtile.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Verbose output.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    # Declared for --help: `parse_global_options` has taken them out of the line, from any position. A
    # docstring would replace the help of the app.
    del quiet, verbose, json, debug, version


@app.command()
def prepare(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images or slides.")],
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS", help="Folder of masks, or of GeoJSON files of QuPath, of the same names."
        ),
    ],
    out: OutFolder,
    tile: Annotated[int, typer.Option(min=16, metavar="PX", help="Side of a tile, in pixels.")] = 512,
    split: Annotated[
        tuple[float, float, float],
        typer.Option(
            metavar="TRAIN VALID TEST", callback=in_range(0, 1), help="Shares of the images, sum 1."
        ),
    ] = (0.7, 0.15, 0.15),
    groups: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Table stem,group[,split]; images of a group stay together."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 137,
    keep_empty: Annotated[
        float,
        typer.Option(metavar="SHARE", callback=in_range(0, 1), help="Share of background tiles to keep."),
    ] = 1.0,
    mini_test: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also copy the whole test images and masks to DIR.")
    ] = None,
    border: Annotated[
        str,
        typer.Option(
            metavar="reflect|even", help="Mirror the image at its border, or space the tiles evenly."
        ),
    ] = "reflect",
    rgb_map: RgbMap = None,
    tolerance: Tolerance = 0,
    indexed: Annotated[
        bool, typer.Option("--indexed", help="Masks contain class numbers, not colours.")
    ] = False,
    mpp: Annotated[
        float | None,
        typer.Option(
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
    target: Annotated[Path, typer.Argument(metavar="DATASET|CONFIG", help="Dataset folder or config.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Output folder [default: beside it].")
    ] = None,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Only a sheet of augmented training samples.")
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
    resume: Annotated[bool, typer.Option("--resume", help="Continue after the last finished epoch.")] = False,
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

        result = run_evaluate(settings, progress=progress)
        paths = (*result.paths, _write_report(result.folder))
    outcome = _read_scores(paths)
    facts = {**outcome, "loss": result.loss, "metric": result.metric}
    report_result("evaluate", paths, warnings=progress.warnings, facts=facts, tables=_tables(outcome))


@app.command()
def crossval(
    config: ConfigFile,
    out: OutFolder,
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(min=2, max=99, metavar="K", help="Number of folds.")] = 4,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run [default: the config's].")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Table stem,group[,use]; use is empty, train or judge."),
    ] = None,
    against: Against = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE",
            help="Vary a setting; repeatable, with a run for each combination.",
        ),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
) -> None:
    """Cross-validate: score each image out of fold."""
    with _configured(config, overrides) as (settings, progress):
        from glomtile.evaluation.cross_validation import crossval as run_crossval
        from glomtile.evaluation.cross_validation import sweep, variants

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
        pages = [_write_report(part.folder) for part in parts]
    facts_of = {run: _crossval_facts(result) for run, result in results.items()}
    paths = dict.fromkeys([*(path for result in results.values() for path in result.paths), *pages])
    if vary:
        report_result(
            "crossval",
            paths,
            warnings=progress.warnings,
            facts={"runs": facts_of},
            tables=[runs_table(facts_of)],
        )
        return
    (facts,) = facts_of.values()
    tables = [*_tables(facts), *_tables(facts["trusted"] or {}, "also trained on")]
    report_result("crossval", paths, warnings=progress.warnings, facts=facts, tables=tables)


def _crossval_facts(result: CrossvalResult) -> dict[str, Any]:
    trusted = _read_scores(result.trusted.paths) if result.trusted else {}
    folds = [str(fold) for fold in result.folds]
    return {**_read_scores(result.scores.paths), "trusted": trusted or None, "folds": folds}


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
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Output folder [default: the config's].")
    ] = None,
) -> None:
    """List the network's layers, memory and work."""
    with _configured(config, overrides) as (settings, progress):
        from glomtile.cli.inspect import inspect as run_inspect

        result = run_inspect(settings, out)
    report_result("inspect", result.paths, warnings=progress.warnings)


app.command()(slides.segment)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted masks.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of true masks of the same names.")],
    out: OutFolder,
    rgb_map: RgbMap = None,
    tolerance: Tolerance = 0,
    groups: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table stem,group; intervals are over the groups.")
    ] = None,
    mpp: OptionalMpp = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The images, for the report and contact sheets.")
    ] = None,
    against: Against = None,
) -> None:
    """Score a folder of masks against the truth."""
    from glomtile.evaluation.score import score as run_score

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
        paths = (*result.paths, _write_report(result.folder))
    outcome = _read_scores(paths)
    report_result("score", paths, warnings=progress.warnings, facts=outcome, tables=_tables(outcome))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
) -> None:
    """Write report.html of a folder of results."""
    from glomtile.report.build import write_report

    report_result("report", [write_report(folder)])


app.command()(models.export)
app.command()(models.ensemble)
app.command("import-weights")(models.import_weights)


@app.command()
def demo(out: OutFolder) -> None:
    """Run the whole workflow on synthetic biopsies."""
    import_backend()
    from glomtile.cli.demo import demo as run_demo

    with progress_display() as progress:
        result = run_demo(out, progress=progress)
    report_result("demo", result.paths, warnings=progress.warnings)


@app.command()
def info(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SLIDE...]", help="Slides or images to describe instead."),
    ] = None,
) -> None:
    """Print versions and devices, or facts of slides."""
    from glomtile.cli.info import info as installation
    from glomtile.cli.info import slide_info

    if not slides:
        from glomtile.system import quiet_import

        with quiet_import():
            result = installation()
        if FLAGS.get().json:
            print_object("info", {"exit_code": 0, "installation": asdict(result)})
        else:
            typer.echo(str(result))
        return
    found, failed = [], []
    for path in slides:
        try:
            found.append(slide_info(path))
        except GlomtileError as problem:
            failed.append((path, problem.message))
    report_result("info", (), found, failed=failed, facts={"slides": [asdict(one) for one in found]})


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


def _write_report(folder: Path) -> Path:
    from glomtile.report.build import write_report

    return write_report(folder)


def _read_scores(paths: Iterable[Path]) -> dict[str, Any]:
    """Read the ``scores.json`` among the paths of a result, if there is one."""
    from glomtile.evaluation.score import read_scores

    written = next((path for path in paths if path.name == "scores.json" and path.is_file()), None)
    return {} if written is None else read_scores(written.parent)


def _tables(scores: Mapping[str, Any], title: str = "") -> list[Table]:
    return scores_tables(scores, title) if "scores" in scores else []
