"""Which commands there are and what their arguments are called; the work itself is a verb's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import glomtile
from glomtile.cli import configs, models
from glomtile.cli.backend import greeting_held_back, wake_backend
from glomtile.cli.clusters import Scheduler, Workers, cluster_of
from glomtile.cli.configs import ConfigFile, Overrides
from glomtile.cli.progress import watching

if TYPE_CHECKING:
    from glomtile.config.schema import Config
    from glomtile.core.palette import Palette
    from glomtile.types import Progress

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

OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the results go.")]
RgbMap = Annotated[
    str | None,
    typer.Option(
        metavar="MAP", help='Colours of the masks\' classes, "{(0,0,0):0,(255,0,0):1}" when left out.'
    ),
]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"glomtile {glomtile.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell only warnings and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Tell the version.")
    ] = False,
) -> None:
    # The switches are taken out of the line before it comes here, so that they may stand anywhere in it;
    # they are declared for --help. This text would replace the app's own, hence a comment.
    del quiet, debug, version


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
        typer.Option(metavar="TRAIN VALID TEST", help="Shares of the images, summing to 1."),
    ] = (0.7, 0.15, 0.15),
    groups: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="stem,group[,split]: images of one group stay together."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 137,
    keep_empty: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Of the tiles without any class.")
    ] = 1.0,
    mini_test: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also copy the whole test images and masks there.")
    ] = None,
    border: Annotated[
        str, typer.Option(metavar="reflect|even", help="Mirror the last tiles, or space them evenly.")
    ] = "reflect",
    rgb_map: RgbMap = None,
    tolerance: Annotated[
        int, typer.Option(min=0, metavar="N", help="How far a mask's colour may be from its class's.")
    ] = 0,
    indexed: Annotated[
        bool, typer.Option("--indexed", help="The masks hold class numbers, not colours.")
    ] = False,
    mpp: Annotated[
        float | None,
        typer.Option(
            min=0.05, max=20, metavar="UM", help="Micrometres per pixel to read annotated slides at."
        ),
    ] = None,
) -> None:
    """Cut images and masks into a tiled, split dataset."""
    from glomtile.verbs.prepare import prepare as verb

    with watching() as progress:
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
    _print(result.paths)


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
    from glomtile.verbs.stats import stats as verb

    with watching() as progress:
        result = verb(target, out, augmented=augmented, progress=progress)
    _print(result.paths)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished epoch.")] = False,
) -> None:
    """Train a network; an older run is moved aside."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.verbs.train import train as verb

        try:
            result = verb(settings, resume=resume, progress=progress)
        except KeyboardInterrupt:
            progress.note("what is finished is kept: the same line with --resume goes on from the last epoch")
            raise
    _print(result.paths)


@app.command()
def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Measure the trained network on the test images."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.verbs.evaluate import evaluate as verb

        result = verb(settings, progress=progress)
    _print(result.paths)


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
    scheduler: Scheduler = None,
    workers: Workers = None,
) -> None:
    """Judge images by networks that did not see them."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.verbs.crossval import crossval as verb

        try:
            result = verb(
                settings,
                out,
                folds=folds,
                name=name,
                groups=groups,
                against=against,
                cluster=cluster_of(scheduler, workers),
                progress=progress,
            )
        except KeyboardInterrupt:
            progress.note("what is finished is kept: the same line goes on from the last epoch")
            raise
    _print(result.paths)


@app.command()
def infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Label whole images, each shrunk to the network's input."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.verbs.infer import infer as verb

        result = verb(settings, progress=progress)
    _print(result.done)
    _conclude(result.failed)


@app.command()
def tiled_infer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Label images tile by tile at full scale, without seams."""
    with _at_work(config, overrides) as (settings, progress):
        from glomtile.verbs.infer import tiled_infer as verb

        result = verb(settings, progress=progress)
    _print(result.done)
    _conclude(result.failed)


@app.command()
def inspect(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where they go; else beside the config.")
    ] = None,
) -> None:
    """Draw the network, estimate its memory and work."""
    with _at_work(config, overrides) as (settings, _):
        from glomtile.verbs.inspect import inspect as verb

        result = verb(settings, out)
    _print(result.paths)


@app.command()
def segment(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Slides, pictures, folders of them.")
    ],
    out: OutFolder,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", metavar="DIR", help="best/ or last/ of a training, instead of the bundled model."
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            min=0.05, max=20, metavar="UM", help="Micrometres per pixel, instead of the files' own."
        ),
    ] = None,
    no_tissue_mask: Annotated[
        bool, typer.Option("--no-tissue-mask", help="Look at windows of bare glass too.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that other settings made.")
    ] = False,
    zarr: Annotated[bool, typer.Option("--zarr", help="Also write the masks as OME-Zarr.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also segment slides far coarser than the model's training.")
    ] = False,
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="none|flips|rotations|all", help="Turned copies to average, instead of the model's."
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=16, metavar="PX", help="Side of a window, instead of the largest that fits."),
    ] = None,
    memory: Annotated[
        int, typer.Option(min=64, metavar="MIB", help="What the network's work on a window may take.")
    ] = 1536,
    threads: Annotated[int, typer.Option(min=1, max=256, help="That read and decode.")] = 2,
    runtime: Annotated[
        str, typer.Option(metavar="auto|openvino|keras", help="What computes the network.")
    ] = "auto",
    scheduler: Scheduler = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what each input is and how much there is to do.")
    ] = False,
) -> None:
    """Find, outline and measure glomeruli on slides."""
    from glomtile.engine.windows import Settings
    from glomtile.verbs import segment as verb
    from glomtile.verbs.oneslide import Request, runtime_of

    settings = Settings(
        tissue_mask=not no_tissue_mask, window_px=window, memory_mb=memory, read_threads=threads, force=force
    )
    request = Request(model, mpp, settings, tta, overwrite, zarr, runtime)
    if runtime_of(request) == "keras":
        wake_backend()
    with watching() as progress:
        if dry_run:
            lines, failed = verb.survey(inputs, request, progress=progress)
            for line in lines:
                typer.echo(line)
            _conclude(failed)
            return
        try:
            cluster = cluster_of(scheduler, workers)
            result = verb.segment(inputs, out, request, cluster=cluster, progress=progress)
        except KeyboardInterrupt:
            progress.note("what is finished is kept: the same line goes on from there")
            raise
    _print(result.paths)
    _conclude(result.failed)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted masks.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of true masks of the same names.")],
    out: OutFolder,
    rgb_map: RgbMap = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="CSV", help="stem,group: intervals are drawn over groups.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(min=0.05, max=20, metavar="UM", help="Micrometres per pixel.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The images, for sheets of the worst first.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Other predictions, for the paired difference.")
    ] = None,
) -> None:
    """Measure two folders of masks of any program."""
    from glomtile.verbs.score import score as verb

    with watching() as progress:
        result = verb(
            predictions,
            truth,
            out,
            palette=_palette(rgb_map),
            groups=groups,
            mpp=mpp,
            images=images,
            against=against,
            progress=progress,
        )
    _print(result.paths)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results.")],
) -> None:
    """Write the report.html of a folder of results again."""
    from glomtile.verbs.report import report as verb

    _print([verb(folder)])


app.command()(models.export)
app.command("import-weights")(models.import_weights)


@app.command()
def demo(out: OutFolder) -> None:
    """Do the whole job on painted biopsies, in minutes."""
    wake_backend()
    from glomtile.verbs.demo import demo as verb

    with watching() as progress:
        result = verb(out, progress=progress)
    _print(result.paths)


@app.command()
def info() -> None:
    """Tell versions, backend, devices and formats."""
    from glomtile.verbs.info import info as verb

    with greeting_held_back():
        result = verb()
    typer.echo(str(result))


@contextmanager
def _at_work(config: Path, overrides: Sequence[str] | None) -> Iterator[tuple[Config, Progress]]:
    """Load the settings, tell what is odd about them, and wake the backend."""
    from glomtile.config.load import load_config

    with watching() as progress:
        settings = load_config(config, overrides or ())
        for finding in settings.findings:
            progress.warn(str(finding))
        wake_backend()
        yield settings, progress


def _palette(rgb_map: str | None) -> Palette:
    import ast

    from glomtile.core.palette import GLOMERULI, Palette
    from glomtile.errors import UsageError

    if rgb_map is None:
        return GLOMERULI
    try:
        colours = dict(ast.literal_eval(rgb_map))
    except (ValueError, SyntaxError, TypeError) as error:
        expected = 'colours and class numbers like "{(0,0,0):0,(255,0,0):1}"'
        raise UsageError("--rgb-map", f"expected {expected}, got {rgb_map!r}") from error
    return Palette.from_rgb_map(colours)


def _print(paths: Iterable[Path]) -> None:
    for path in paths:
        typer.echo(str(path))


def _conclude(failed: Sequence[tuple[object, str]]) -> None:
    """End with 1 and the reasons when some inputs failed; the others are done."""
    if failed:
        typer.echo(f"failed: {len(failed)}", err=True)
        for where, reason in failed:
            typer.echo(f"  {where}: {reason}", err=True)
        raise typer.Exit(1)
