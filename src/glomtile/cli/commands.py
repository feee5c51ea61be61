"""Which commands there are and what their arguments are called; the work itself is a verb's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomtile.cli import configs
from glomtile.cli.progress import watching

if TYPE_CHECKING:
    from glomtile.core.palette import Palette

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

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="An INI or TOML file of settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be given again."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the results go.")]
RgbMap = Annotated[
    str | None,
    typer.Option(
        metavar="MAP", help='Colours of the masks\' classes, "{(0,0,0):0,(255,0,0):1}" when left out.'
    ),
]


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell only warnings and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    # The switches are taken out of the line before it comes here, so that they may stand anywhere in it;
    # they are declared for --help. This text would replace the app's own, hence a comment.
    del quiet, debug


@app.command()
def prepare(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks of the same names.")],
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
) -> None:
    """Cut images and masks into tiles and sort the images into train, valid and test."""
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
            progress=progress,
        )
    _print(result)


@app.command()
def info() -> None:
    """Say versions, backend, devices and the formats that can be read."""
    from glomtile.verbs.info import info as verb

    typer.echo(verb().text())


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
