"""Where unfinished work lies that nobody shall find again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A temporary folder that goes when nobody holds this any more, or the process ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glomtile-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
