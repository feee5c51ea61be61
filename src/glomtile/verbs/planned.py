"""What there is to do for one slide, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomtile.files.remote import RemoteFile


@dataclass(frozen=True)
class Planned:
    """What there is to do for one input; ``str()`` of it is a line.

    Attributes
    ----------
    input : Path or RemoteFile
    kind : str
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    mpp : float
    mpp_source : str
    tissue_mm2 : float
    windows, windows_seen : int
        All, and those that the network will look at.
    """

    input: Path | RemoteFile
    kind: str
    size_px: tuple[int, int]
    mpp: float
    mpp_source: str
    tissue_mm2: float
    windows: int
    windows_seen: int

    def __str__(self) -> str:
        height, width = self.size_px
        return (
            f"{self.input}: {self.kind}, {width:,} x {height:,} px at {self.mpp:.4g} µm "
            f"({self.mpp_source}), {self.tissue_mm2:.3g} mm² of tissue, "
            f"{self.windows_seen} of {self.windows} windows"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        height, width = self.size_px
        return {
            "input": str(self.input), "kind": self.kind, "width_px": width, "height_px": height,
            "mpp": self.mpp, "mpp_source": self.mpp_source, "tissue_mm2": self.tissue_mm2,
            "windows": self.windows, "windows_seen": self.windows_seen,
        }  # fmt: skip
