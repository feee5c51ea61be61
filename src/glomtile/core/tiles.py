"""Where the tiles of a dataset lie on an image that is not stretched for them."""

from __future__ import annotations

from collections.abc import Iterator

from glomtile.core.arguments import choice_argument
from glomtile.types import Box

BORDERS = ("reflect", "even")


def tile_boxes(size_px: tuple[int, int], tile_px: int, border: str) -> Iterator[Box]:
    """Tiles that cover an image, row by row.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of the image.
    tile_px : int
        Side of a tile.
    border : "reflect" or "even"
        The last tiles hang over the edge, for the tissue to be mirrored there; or as many tiles are
        spaced evenly and overlap, and only those of an image smaller than a tile hang over.

    Yields
    ------
    Box
        ``ceil(H / tile_px) * ceil(W / tile_px)`` of them.

    Raises
    ------
    ArgumentError
        The border is neither of the two.
    """
    choice_argument("border", border, BORDERS)
    rows, columns = (_starts(length, tile_px, border) for length in size_px)
    for top in rows:
        for left in columns:
            yield Box(top, left, top + tile_px, left + tile_px)


def _starts(length: int, tile_px: int, border: str) -> list[int]:
    count = -(-length // tile_px)
    if border == "even" and count > 1:
        return [round(index * (length - tile_px) / (count - 1)) for index in range(count)]
    return [index * tile_px for index in range(count)]
