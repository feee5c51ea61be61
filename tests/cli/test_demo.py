"""The demo: the whole job in small, and what it does with a folder that is not empty."""

from __future__ import annotations

import pytest
from tests.fakes import RecordingProgress

from glomtile.cli import demo as module
from glomtile.cli.demo import demo
from glomtile.config.load import load_config
from glomtile.errors import UsageError
from glomtile.evaluation.score import read_groups
from glomtile.io.atomic import read_json
from glomtile.io.images import image_mpp
from glomtile.io.tables import read_csv


class Unwarned(RecordingProgress):
    """A progress that keeps its notes, and takes no warning."""

    def warn(self, text):
        raise AssertionError(f"the demo warns: {text}")


def test_its_settings_are_a_config_without_findings(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(module._settings(), "utf-8")
    config = load_config(path)
    assert not config.findings
    assert config.model.num_classes == config.palette().num_classes
    assert config.model.mpp == 2 * module.MPP


def test_its_intervals_are_drawn_over_patients(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENTS", 2)
    monkeypatch.setattr(module, "SIDE_PX", 64)
    (tmp_path / "demo.toml").write_text(module._settings(), "utf-8")
    config = load_config(tmp_path / "demo.toml")
    biopsies = module._paint(tmp_path / "biopsies", Unwarned())
    stems = [path.stem for path in (biopsies / "images").iterdir()]
    assert config.eval.groups is not None
    assert set(read_groups(config.resolve(config.eval.groups), stems).values()) == {"patient01", "patient02"}


@pytest.mark.slow
def test_it_goes_from_nothing_to_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENTS", 4)
    monkeypatch.setattr(module, "IMAGES_PER_PATIENT", 1)
    monkeypatch.setattr(module, "SIDE_PX", 384)
    text = module._settings()
    for key, value in {"epochs": 1, "samples_per_epoch": 8, "num_layers": 3, "base_filters": 4}.items():
        text = "\n".join(f"{key} = {value}" if li.startswith(f"{key} = ") else li for li in text.splitlines())
    monkeypatch.setattr(module, "_settings", lambda: text)

    out, notes = tmp_path / "demo", Unwarned()
    paths = demo(out, progress=notes)

    assert [note.split()[0] for note in notes.notes if not note.startswith("epoch")][:2] == [
        "painted",
        "prepared",
    ]
    assert notes.notes[-1].startswith("done in ")
    assert (out / "demo.toml").read_text("utf-8") == text
    images = sorted((out / "biopsies/images").glob("*.png"))
    assert len(images) == 4
    assert image_mpp(images[0]) == pytest.approx(module.MPP, rel=1e-3)
    groups = read_csv(out / "biopsies/groups.csv", ("stem", "group"))
    assert {row["stem"].split("_")[0] == row["group"] for row in groups} == {True}
    assert read_json(out / "evaluation/scores.json")["images"] == 1
    masks = [p.name for p in (out / "masks_tiled").iterdir() if p.suffix == ".png"]
    assert set(masks) == {p.name for p in (out / "mini_test/images").iterdir()}
    assert all(path.exists() for path in paths)
    assert (out / "evaluation/report.html") in paths


def test_an_earlier_demo_is_moved_aside_and_other_folders_are_refused(tmp_path):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        demo(other)
    assert (other / "chapter1.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="a file"):
        demo(other / "chapter1.txt")

    earlier = tmp_path / "demo"
    (earlier / "biopsies").mkdir(parents=True)
    notes = Unwarned()
    module._make_room(earlier, notes)
    assert not earlier.exists()
    assert len(list(tmp_path.glob("demo-*"))) == 1
    assert notes.notes[0].startswith("an earlier demo is now ")
