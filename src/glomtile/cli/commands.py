"""Which commands there are and what their arguments are called; the work itself is a verb's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import glomtile
from glomtile.cli import configs, models, slides
from glomtile.cli.clusters import Scheduler, Workers, cluster_of
from glomtile.cli.configs import ConfigFile, Overrides
from glomtile.cli.flags import FLAGS
from glomtile.cli.numbers import plausible_mpp, share, shares
from glomtile.cli.outcome import print_object, report_result
from glomtile.cli.progress import PlainProgress, progress_display
from glomtile.cli.slides import OutFolder
from glomtile.errors import GlomtileError
from glomtile.system import import_backend

if TYPE_CHECKING:
    from glomtile.cli.summaries import Table
    from glomtile.config.schema import Config
    from glomtile.evaluation.cross_validation import CrossvalResult
    from glomtile.palette import Palette

app = typer.Typer(
    name="glomtile",
    help="Glomeruli from images of kidney tissue: prepare data, train, measure, and label every pixel.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(configs.app, name="config")

RgbMap = Annotated[
    str | None,
    typer.Option(
        metavar="MAP", help='Colours of the masks\' classes, "{(0,0,0):0,(255,0,0):1}" when left out.'
    ),
]
Tolerance = Annotated[
    int,
    typer.Option(
        min=0, max=255, metavar="N", help="How far a mask's colour may be from its class's, as in JPEG masks."
    ),
]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"glomtile {glomtile.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell of every stage.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of paths.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Tell the version.")
    ] = False,
) -> None:
    # The switches are taken out of the line before it comes here, so that they may stand anywhere in it;
    # they are declared for --help. This text would replace the app's own, hence a comment.
    del quiet, verbose, json, debug, version


@app.command()
def prepare(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images or slides.")],
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS", help="Folder of masks, or of QuPath's .geojson files, of the same names."
        ),
    ],
    out: OutFolder,
    tile: Annotated[int, typer.Option(min=16, metavar="PX", help="Side of a tile.")] = 512,
    split: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="TRAIN VALID TEST", callback=shares, help="Shares of the images, summing to 1."),
    ] = (0.7, 0.15, 0.15),
    groups: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="stem,group[,split]: images of one group stay together."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 137,
    keep_empty: Annotated[
        float,
        typer.Option(metavar="SHARE", callback=share, help="Of the tiles without any class, 0 to 1."),
    ] = 1.0,
    mini_test: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also copy the whole test images and masks there.")
    ] = None,
    border: Annotated[
        str, typer.Option(metavar="reflect|even", help="Mirror the last tiles, or space them evenly.")
    ] = "reflect",
    rgb_map: RgbMap = None,
    tolerance: Tolerance = 0,
    indexed: Annotated[
        bool, typer.Option("--indexed", help="The masks hold class numbers, not colours.")
    ] = False,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="UM",
            callback=plausible_mpp,
            help="Micrometres per pixel to read annotated slides at, 0.05 to 20.",
        ),
    ] = None,
) -> None:
    """Cut images and masks into a tiled, split dataset."""
    from glomtile.datasets.prepare import prepare as verb

    with progress_display() as progress:
        result = verb(
            images,
            masks,
            out,
            tile_px=tile,
            split=split,
            groups=groups,
            seed=seed,
            keep_empty=keep_empty,
            mini_test=mini_test,
            palette=_palette(rgb_map),
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
    target: Annotated[Path, typer.Argument(metavar="DATASET|CONFIG", help="A prepared folder or a config.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where the charts go; else beside it.")
    ] = None,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Only a sheet of samples as the network will see them.")
    ] = False,
) -> None:
    """Draw image counts, class shares, sizes, samples."""
    with progress_display() as progress:
        if augmented:
            from glomtile.training.samples import draw_augmented

            paths = [draw_augmented(target, out, progress=progress)]
        else:
            from glomtile.datasets.statistics import stats as verb

            paths = verb(target, out, progress=progress).paths
    report_result("stats", paths, warnings=progress.warnings)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished epoch.")] = False,
) -> None:
    """Train a network; an older run is moved aside."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.training.train import train as verb

        try:
            result = verb(settings, resume=resume, progress=progress)
        except KeyboardInterrupt:
            progress.note("what is finished is kept: the same line with --resume goes on from the last epoch")
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
    """Measure the trained network on the test images."""
    with _at_work(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import evaluate as verb

        result = verb(settings, progress=progress)
        paths = (*result.paths, _write_report(result.folder))
    outcome = _figures_of(paths)
    facts = {**outcome, "loss": result.loss, "metric": result.metric}
    report_result("evaluate", paths, warnings=progress.warnings, facts=facts, tables=_tables_of(outcome))


@app.command()
def crossval(
    config: ConfigFile,
    out: OutFolder,
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(min=2, max=99, metavar="K", help="Networks to train.")] = 4,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this run; the config's name when left out.")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="stem,group[,use]: use is empty, train (only) or judge (only)."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Other predictions, for the paired difference.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE",
            help="A run with this value; again for other values and keys: a run for each combination.",
        ),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
) -> None:
    """Judge images by networks that did not see them."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.evaluation.cross_validation import crossval as verb
        from glomtile.evaluation.cross_validation import sweep, variants

        asked: dict[str, Any] = {"folds": folds, "groups": groups, "against": against, "progress": progress}
        asked["cluster"] = cluster_of(scheduler, workers)
        try:
            if vary:
                results = sweep(variants(config, overrides or (), vary, name), out, **asked)
            else:
                results = {name or "": verb(settings, out, name=name, **asked)}
        except KeyboardInterrupt:
            progress.note("what is finished is kept: the same line goes on from the last epoch")
            raise
        parts = [part for run in results.values() for part in (run.scores, run.trusted) if part is not None]
        pages = [_write_report(part.folder) for part in parts]
    told = {run: _crossval_facts(result) for run, result in results.items()}
    paths = dict.fromkeys([*(path for result in results.values() for path in result.paths), *pages])
    if vary:
        from glomtile.cli.summaries import runs_table

        report_result(
            "crossval", paths, warnings=progress.warnings, facts={"runs": told}, tables=[runs_table(told)]
        )
        return
    (facts,) = told.values()
    tables = [*_tables_of(facts), *_tables_of(facts["trusted"] or {}, "that are trained on too")]
    report_result("crossval", paths, warnings=progress.warnings, facts=facts, tables=tables)


def _crossval_facts(result: CrossvalResult) -> dict[str, Any]:
    trusted = _figures_of(result.trusted.paths) if result.trusted else {}
    folds = [str(fold) for fold in result.folds]
    return {**_figures_of(result.scores.paths), "trusted": trusted or None, "folds": folds}


@app.command()
def infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Label whole images, each shrunk to the network's input."""
    with _at_work(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import infer as verb

        result = verb(settings, progress=progress)
    report_result("infer", result.done, failed=result.failed, warnings=progress.warnings)


@app.command()
def tiled_infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Label images tile by tile at full scale, without seams."""
    with _at_work(config, overrides, trained=True) as (settings, progress):
        from glomtile.evaluation.evaluate import tiled_infer as verb

        result = verb(settings, progress=progress)
    report_result("tiled-infer", result.done, failed=result.failed, warnings=progress.warnings)


@app.command()
def inspect(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where they go; else beside the config.")
    ] = None,
) -> None:
    """Draw the network, estimate its memory and work."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.cli.inspect import inspect as verb

        result = verb(settings, out)
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
        Path | None, typer.Option(metavar="CSV", help="stem,group: intervals are drawn over groups.")
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(metavar="UM", callback=plausible_mpp, help="Micrometres per pixel, 0.05 to 20."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The images, for sheets of the worst first.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Other predictions, for the paired difference.")
    ] = None,
) -> None:
    """Measure two folders of masks of any program."""
    from glomtile.evaluation.score import score as verb

    with progress_display() as progress:
        result = verb(
            predictions,
            truth,
            out,
            palette=_palette(rgb_map),
            tolerance=tolerance,
            groups=groups,
            mpp=mpp,
            images=images,
            against=against,
            progress=progress,
        )
        paths = (*result.paths, _write_report(result.folder))
    outcome = _figures_of(paths)
    report_result("score", paths, warnings=progress.warnings, facts=outcome, tables=_tables_of(outcome))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results.")],
) -> None:
    """Write the report.html of a folder of results again."""
    from glomtile.report.build import write_report as verb

    report_result("report", [verb(folder)])


app.command()(models.export)
app.command()(models.ensemble)
app.command("import-weights")(models.import_weights)


@app.command()
def demo(out: OutFolder) -> None:
    """Do the whole job on painted biopsies, in minutes."""
    import_backend()
    from glomtile.cli.demo import demo as verb

    with progress_display() as progress:
        result = verb(out, progress=progress)
    report_result("demo", result.paths, warnings=progress.warnings)


@app.command()
def info(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SLIDE...]", help="Slides or pictures to tell of instead."),
    ] = None,
) -> None:
    """Tell versions, backend, devices, or slides' facts."""
    from glomtile.cli import info as verb

    if not slides:
        from glomtile.system import quiet_import

        with quiet_import():
            result = verb.info()
        if FLAGS.get().json:
            print_object("info", {"exit_code": 0, "installation": asdict(result)})
        else:
            typer.echo(str(result))
        return
    found, failed = [], []
    for path in slides:
        try:
            found.append(verb.slide_info(path))
        except GlomtileError as problem:
            failed.append((path, problem.message))
    report_result("info", (), found, failed=failed, facts={"slides": [asdict(one) for one in found]})


@contextmanager
def _at_work(
    config: Path, overrides: Sequence[str] | None, *, trained: bool = False
) -> Iterator[tuple[Config, PlainProgress]]:
    """Load the settings, tell what is odd about them, look for the model it takes, and wake the backend."""
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


def _palette(rgb_map: str | None) -> Palette:
    from glomtile.config.ini import read_literal
    from glomtile.errors import ArgumentError, ConfigError, UsageError
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


def _write_report(folder: Path) -> Path:
    """Write the page over a folder of results."""
    from glomtile.report.build import write_report

    return write_report(folder)


def _figures_of(paths: Iterable[Path]) -> dict[str, Any]:
    """The figures that stand in the folder of a result's ``scores.json``; none where it wrote none."""
    from glomtile.inference.records import scores_outcome

    written = next((path for path in paths if path.name == "scores.json" and path.is_file()), None)
    return {} if written is None else scores_outcome(written.parent)


def _tables_of(outcome: Mapping[str, Any], title: str = "") -> list[Table]:
    from glomtile.cli.summaries import scores_tables

    return scores_tables(outcome, title) if "scores" in outcome else []
