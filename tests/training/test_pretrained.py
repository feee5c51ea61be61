"""Training that begins with the weights of a trained model: what is taken, what must fit, what is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.fakes import RecordingProgress
from tests.fixtures import changed, config_of, paint_discs

from glomtile.cli.main import run
from glomtile.config.load import load_config, make_config
from glomtile.config.model_card import BUNDLED
from glomtile.config.schema import Config
from glomtile.config.toml import template
from glomtile.errors import ConfigError, ModelError, UsageError
from glomtile.evaluation.cross_validation import crossval
from glomtile.models.folder import bundled_folder, load_model_folder, read_card
from glomtile.models.pretrained import apply_pretrained, load_pretrained, named
from glomtile.networks.registry import build_model
from glomtile.training.train import train

pytestmark = pytest.mark.usefixtures("eager")

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and in models/last a network that four epochs have taught something."""
    root = tmp_path_factory.mktemp("discs")
    paint_discs(root, 6)
    history = train(config_of(root, epochs=4)).history
    (root / "losses.json").write_text(json.dumps([figures["loss"] for figures in history]))
    return root


def going_on(project: Path, where: Path, **train_settings: Any) -> Config:
    """Settings of a training in `where` that begins with the network of `project`."""
    settings = {
        "pretrained": project / "models/last",
        "images_dir": project / "images",
        "masks_dir": project / "masks",
        **train_settings,
    }
    return changed(make_config(config_of(project).model_dump(), where), train=settings)


def weights_of(folder: Path) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in load_model_folder(folder).model.layers}


@pytest.mark.parametrize(("precision", "ema_decay"), [("float32", 0.9), ("mixed_bfloat16", 0.0)])
def test_a_step_of_almost_nothing_leaves_the_weights_it_began_with(
    project: Path, tmp_path: Path, precision: str, ema_decay: float
) -> None:
    config = going_on(project, tmp_path, epochs=1, precision=precision, ema_decay=ema_decay)
    heard = RecordingProgress()
    result = train(changed(config, model={"learning_rate": 1e-12}), progress=heard)
    assert any("begins with the weights of" in note and "anew" not in note for note in heard.notes)
    before, after = weights_of(project / "models/last"), weights_of(result.last)
    for name, arrays in before.items():
        for old, new in zip(arrays, after[name], strict=True):
            np.testing.assert_allclose(new, old, atol=1e-6)
    assert result.history[0]["loss"] < json.loads((project / "losses.json").read_text())[0]


def test_the_card_tells_the_line_of_models_it_comes_from(project: Path, tmp_path: Path) -> None:
    first = train(going_on(project, tmp_path / "a", epochs=1)).last
    second = train(going_on(project, tmp_path / "b", epochs=1, pretrained=first)).last
    card = read_card(second)
    assert card.pretrained is not None
    assert card.pretrained.sha256 == read_card(first).sha256["model.keras"]
    assert card.pretrained.data == read_card(first).data
    assert card.pretrained.pretrained is not None
    assert card.pretrained.pretrained.sha256 == read_card(project / "models/last").sha256["model.keras"]
    assert card.pretrained.pretrained.pretrained is None


def test_another_number_of_classes_begins_the_last_layer_alone_anew(project: Path) -> None:
    config = going_on(project, project)
    three = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}
    config = changed(config, model={"num_classes": 3}, mask={"rgb_map": three})
    start, network, heard = load_pretrained(config), build_model(config.model, seed=7), RecordingProgress()
    assert start is not None
    head = network.get_layer("logits").get_weights()
    apply_pretrained(network, start, config, heard)
    given = weights_of(project / "models/last")
    for layer in network.layers:
        for old, new in zip(
            head if layer.name == "logits" else given[layer.name], layer.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(new, old)
    assert "the last layer, which begins anew: 3 outputs, it has 2" in heard.notes[0]
    assert not heard.warnings


def test_another_scale_is_warned_of(project: Path) -> None:
    config = changed(going_on(project, project), model={"mpp": 2.0})
    start, heard = load_pretrained(config), RecordingProgress()
    assert start is not None
    apply_pretrained(build_model(config.model, seed=7), start, config, heard)
    (told,) = heard.warnings
    assert told.endswith("models/last was trained at 1 µm per pixel, [model] mpp says 2 µm per pixel")


def test_another_network_is_refused_with_all_that_differs_before_anything_is_written(
    project: Path, tmp_path: Path
) -> None:
    config = changed(
        going_on(project, tmp_path), model={"base_filters": 8, "norm": "batch"}, image={"color_order": "BGR"}
    )
    with pytest.raises(ConfigError) as refused:
        train(config)
    told = str(refused.value)
    assert "[model] base_filters: expected 4 as in" in told
    assert "[model] norm: expected 'none', got 'batch'" in told
    assert "[image] color_order: expected 'RGB', got 'BGR'" in told
    assert "config init --pretrained" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["nothing", "run", "file", "damaged", "untrained"])
def test_what_is_no_model_folder_is_refused(project: Path, tmp_path: Path, there: str) -> None:
    folder = tmp_path / "model"
    if there == "run":
        shutil.copytree(project / "models/last", folder / "best")
    elif there == "file":
        folder.write_text("weights")
    elif there != "nothing":
        shutil.copytree(project / "models/last", folder)
        network = folder / "model.keras"
        network.unlink() if there == "untrained" else network.write_bytes(network.read_bytes()[:-1])
    config = going_on(project, tmp_path / "run", pretrained=folder)
    expected = {
        "nothing": r"\[train\] pretrained: expected a model folder, or glomeruli-pas",
        "run": "perhaps", "file": "got a file", "damaged": "SHA-256",
        "untrained": "found none",
    }  # fmt: skip
    with pytest.raises(ConfigError if there == "nothing" else ModelError, match=expected[there]):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_equals_one_in_a_piece_and_notices_another_beginning(
    project: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(project / "models/last", tmp_path / "given")
    whole = train(going_on(project, tmp_path / "whole", pretrained=model)).last
    train(going_on(project, tmp_path / "parts", epochs=1, pretrained=model))
    moved = model.rename(tmp_path / "elsewhere")
    parts = train(going_on(project, tmp_path / "parts", pretrained=moved), resume=True).last
    with np.load(whole / "training.npz") as one, np.load(parts / "training.npz") as other:
        assert one.files == other.files
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
    for other_start in (whole, None):
        config = going_on(project, tmp_path / "parts", epochs=3, pretrained=other_start)
        with pytest.raises(ConfigError, match=r"train\.pretrained"):
            train(config, resume=True)


def test_a_run_begun_before_there_was_a_choice_goes_on(project: Path, tmp_path: Path) -> None:
    config = going_on(project, tmp_path, epochs=1, pretrained=None)
    train(config)
    notes = tmp_path / "models/last/training.json"
    told = json.loads(notes.read_text())
    del told["settings"]["train.pretrained"]
    notes.write_text(json.dumps(told))
    assert len(train(changed(config, train={"epochs": 2}), resume=True).history) == 2


def test_every_fold_begins_with_it_wherever_the_run_lies(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "models/last", tmp_path / "given")
    paint_discs(tmp_path, 4)
    settings = {"pretrained": "given", "images_dir": "images", "masks_dir": "masks"}
    config, heard = going_on(project, tmp_path, epochs=1, **settings), RecordingProgress()
    crossval(config, tmp_path / "far/runs", folds=2, name="discs", progress=heard)
    assert sum("every fold starts with the weights of given" in text for text in heard.warnings) == 1
    digest = read_card(tmp_path / "given").sha256["model.keras"]
    for fold in (1, 2):
        begun = read_card(tmp_path / f"far/runs/discs/fold-{fold}/models/last").pretrained
        assert begun is not None
        assert begun.sha256 == digest
    with pytest.raises(UsageError, match=r"train\.pretrained"):
        crossval(changed(config, train={"pretrained": None}), tmp_path / "far/runs", folds=2, name="discs")


def test_the_bundled_model_goes_by_its_name_unless_a_folder_has_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text(template(named(BUNDLED)))
    monkeypatch.chdir(project)  # the name is no path of the current folder, given on the command line either
    for overrides in ([], [f"train.pretrained={BUNDLED}"], [f'train.pretrained="{BUNDLED}"']):
        start = load_pretrained(load_config(tmp_path / "config.toml", overrides))
        assert start is not None
        assert (start.address, start.record.name) == (BUNDLED, BUNDLED)
    config = going_on(project, tmp_path, pretrained=BUNDLED)
    with pytest.raises(ConfigError, match=r"base_filters: expected 16 as in glomeruli-pas"):
        load_pretrained(config)
    shutil.copytree(project / "models/last", tmp_path / BUNDLED)
    start = load_pretrained(config)
    assert start is not None
    assert start.address == str(tmp_path / BUNDLED)


def test_a_model_that_would_be_moved_aside_is_refused(project: Path, tmp_path: Path) -> None:
    """Training moves its earlier models aside as a whole, and would then begin with what it just made."""
    shutil.copytree(project / "models", tmp_path / "models")
    config = going_on(project, tmp_path, pretrained="models/last")
    assert any("train refuses it" in str(finding) for finding in config.findings)
    with pytest.raises(ConfigError, match="models: expected a folder of its own"):
        train(config)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_folds_begin_alike_or_not_at_all(project: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(project / "models/last", tmp_path / "given"))
    other = train(going_on(project, tmp_path / "other", epochs=1)).last
    paint_discs(tmp_path, 4)

    class Exchanging(RecordingProgress):
        def note(self, text: str) -> None:
            if text.startswith("fold 2"):
                shutil.rmtree(model)
                shutil.copytree(other, model)

    settings = {"pretrained": "given", "images_dir": "images", "masks_dir": "masks"}
    config = going_on(project, tmp_path, epochs=1, **settings)
    with pytest.raises(ModelError, match="expected the pretrained network of the run"):
        crossval(config, tmp_path / "runs", folds=2, name="discs", progress=Exchanging())
    assert not (tmp_path / "runs/discs/fold-2/models").exists()


def test_classes_of_other_names_are_warned_of(project: Path) -> None:
    config = changed(going_on(project, project), mask={"class_names": ("background", "tubule")})
    start, heard = load_pretrained(config), RecordingProgress()
    assert start is not None
    apply_pretrained(build_model(config.model, seed=7), start, config, heard)
    (told,) = heard.warnings
    assert told.endswith("knows the classes background, class 1, [mask] class_names says background, tubule")


def test_what_neither_network_reads_may_differ(project: Path) -> None:
    assert load_pretrained(changed(going_on(project, project), model={"norm_groups": 2})) is not None


def test_the_command_prints_settings_that_fit(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "init", "--pretrained", str(project / "models/last")]) == 0
    (tmp_path / "config.toml").write_text(capsys.readouterr().out)
    config = load_config(tmp_path / "config.toml")
    assert not config.findings
    start = load_pretrained(config)
    assert start is not None
    assert start.folder == project / "models/last"
    assert run(["config", "init", "--pretrained", str(tmp_path / "nowhere")]) == 2
    assert "expected a model folder" in capsys.readouterr().err


def test_the_bundled_models_weights_are_taken_at_full_width(tmp_path: Path) -> None:
    """Its kernels are stored as float16, and computed with and trained in float32."""
    (tmp_path / "config.toml").write_text(template(named(BUNDLED)))
    config = load_config(tmp_path / "config.toml")
    start = load_pretrained(config)
    assert start is not None
    assert start.folder == bundled_folder()
    network = build_model(config.model, seed=1)
    apply_pretrained(network, start, config)
    expected = keras.saving.load_model(start.folder / "model.keras", compile=False)
    assert all(variable.dtype == "float32" for variable in network.weights)
    for old, new in zip(expected.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert config.model.learning_rate == pytest.approx(0.1 * start.card.network.learning_rate)
    for key in ("smoothing_px", "tta", "threshold"):
        assert getattr(config.tiledinfer, key) == getattr(start.card, key)
    assert config.palette() == start.card.palette()
