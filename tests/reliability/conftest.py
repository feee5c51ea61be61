"""A small disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the size given; a test is skipped where none may be mounted."""
    program, place = shutil.which("mount") or "mount", tmp_path / "small"

    def at(size: str) -> Path:
        place.mkdir()
        command = [program, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if shutil.which(program) is None or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("no file system may be mounted here; the same with a decreed error runs beside this")
        return place

    yield at
    if place.is_mount():
        subprocess.run([shutil.which("umount") or "umount", str(place)], check=True)
