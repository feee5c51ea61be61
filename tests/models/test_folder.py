"""Who reads a model folder writes nothing, and reads one folder, whatever a training does meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glomtile.errors import ModelError
from glomtile.inference.segmenter import Segmenter
from glomtile.io.atomic import replace_folder
from glomtile.models.folder import CARD, NETWORK, load_model_folder, read_whole


@pytest.fixture
def copied(exported_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_model, tmp_path / "best"))


def refuse_writing(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Make a folder one of a read-only drive, also for who may do everything."""

    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(path: Any, *more: Any, **how: Any) -> Any:
            if str(path).startswith(str(place)):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return call(path, *more, **how)

        return refused

    for name in ("unlink", "rename", "replace", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def test_a_model_on_a_read_only_drive_loads(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(copied.parent.rglob("*"))
    refuse_writing(monkeypatch, copied.parent)
    assert load_model_folder(copied).card == Segmenter.load(copied, runtime="openvino").card.model_copy(
        update={"sha256": load_model_folder(copied).card.sha256}
    )
    assert sorted(copied.parent.rglob("*")) == before


def save(folder: Path, text: str) -> None:
    with replace_folder(folder) as partial:
        for name in (CARD, NETWORK):
            (partial / name).write_text(text)


@pytest.mark.parametrize("problem", [None, ModelError("best", "expected one model, got two")])
def test_what_was_read_across_a_swap_is_read_again(tmp_path: Path, problem: ModelError | None) -> None:
    """Its card was the old model's and its network the new one's, which read as damaged."""
    folder, read = tmp_path / "best", list[tuple[str, str]]()
    save(folder, "old")

    def both(place: Path) -> tuple[str, str]:
        card = (place / CARD).read_text()
        if not read:
            save(folder, "new")
        read.append((card, (place / NETWORK).read_text()))
        if problem is not None and len(read) == 1:
            raise problem
        return read[-1]

    assert read_whole(folder, both) == ("new", "new")
    assert read == [("old", "new"), ("new", "new")]


def test_a_damaged_folder_that_stands_still_is_read_once_and_one_that_never_does_is_named(
    tmp_path: Path,
) -> None:
    folder, reads = tmp_path / "best", list[Path]()

    def damaged(place: Path) -> None:
        reads.append(place)
        raise ModelError(place, "expected a card, found none")

    for there in (False, True):
        if there:
            save(folder, "one")
        reads.clear()
        with pytest.raises(ModelError, match="found none"):
            read_whole(folder, damaged)
        assert reads == [folder]
    with pytest.raises(ModelError, match="replaced each time"):
        read_whole(folder, lambda place: save(folder, "again"))
