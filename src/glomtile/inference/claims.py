"""Claim files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claim:
    """A file that a worker makes when it begins a piece, and the client when it takes that back.

    Attributes
    ----------
    path : Path
        In a folder that client and workers share; another one each time that a piece is handed out.

    Notes
    -----
    Whoever makes it first has the piece: file systems, NFS among them, let only one make a new file. It
    outlives its worker, so it also tells which of the pieces in a dead worker's hands had been begun.
    """

    path: Path

    def made(self, begun: int = 0) -> bool:
        """Make the claim.

        Parameters
        ----------
        begun : int
            The how manyth piece it is that the worker begins; 0 from the client.

        Returns
        -------
        bool
            Whether it was not there before.

        Raises
        ------
        OSError
            It cannot be made.
        """
        try:
            file = self.path.open("x", encoding="ascii")
        except FileExistsError:
            return False
        with suppress(OSError), file:  # the file says it; on a full disk its number is lacking
            file.write(f"{begun}")
        return True

    def order(self) -> float:
        """The how manyth piece its worker began with it; infinity where it died before it had said so."""
        with suppress(OSError):
            told = self.path.read_text("ascii")
            if told.isdecimal():
                return int(told)
        return float("inf")

    def clear(self) -> None:
        """Remove it: the piece has been answered."""
        with suppress(OSError):  # its folder goes when the run ends
            self.path.unlink(missing_ok=True)
