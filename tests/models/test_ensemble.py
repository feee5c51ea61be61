"""An ensemble answers as its members do on average, in every runtime, and tells where it comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes import RecordingProgress
from tests.fixtures import changed, config_of, paint_discs

from glomtile.cli.main import run
from glomtile.config.model_card import ModelCard
from glomtile.errors import ModelError, UsageError
from glomtile.inference.export import export
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.models.ensemble import ensemble
from glomtile.models.folder import load_model_folder, read_card, save_model_folder, write_card
from glomtile.networks.profiling import activation_bytes
from glomtile.synthetic import paint
from glomtile.training.train import train

pytestmark = pytest.mark.usefixtures("eager")

KINDS: dict[str, dict[str, Any]] = {
    "batch": {"norm": "batch", "dropout_rate": 0.1},
    "group": {"norm": "group", "upsampling": "bilinear", "residual": True},
    "sigmoid": {"num_classes": 1},
}


@pytest.fixture(scope="module", params=list(KINDS))
def members(request: pytest.FixtureRequest, write_model: Callable[..., Path]) -> list[Path]:
    """Three networks of one kind whose weights differ, those of normalisation too."""
    settings = KINDS[request.param]
    folders = [write_model(seed=seed, **settings) for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders):
        loaded, rng = load_model_folder(folder), np.random.default_rng(seed)
        weights = [array + 0.1 * np.abs(rng.normal(size=array.shape)) for array in loaded.model.get_weights()]
        loaded.model.set_weights(weights)
        save_model_folder(folder, loaded.model, loaded.card)
    return folders


def test_it_answers_as_its_members_do_on_average(members: list[Path], tmp_path: Path) -> None:
    loaded = load_model_folder(ensemble(members, tmp_path / "mean"))
    batch = np.random.default_rng(5).integers(0, 256, (2, 24, 40, 3), np.uint8)
    answers = [np.asarray(load_model_folder(folder).model(batch)) for folder in members]
    assert np.ptp(answers, axis=0).max() > 0.05, "members that agree prove nothing"
    np.testing.assert_allclose(np.asarray(loaded.model(batch)), np.mean(answers, axis=0), atol=1e-6)


def test_it_is_exported_like_any_network(members: list[Path], tmp_path: Path) -> None:
    folder = ensemble(members, tmp_path / "mean")
    assert export(folder).parity.largest < 1e-4
    write_png(tmp_path / "image.png", paint(3, (128, 128), 2.0).image)
    answers = [
        np.asarray(
            Segmenter.load(folder, runtime=runtime).segment(tmp_path / "image.png", mpp=2.0).confidence
        )
        for runtime in ("keras", "openvino")
    ]
    assert np.abs(np.subtract(*answers, dtype=np.int16)).max() <= 1


@pytest.mark.usefixtures("int8_products")
def test_int8_leaves_the_last_sums_of_every_member_alone(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    import onnx

    folder = ensemble([write_model(seed=seed) for seed in (1, 2)], tmp_path / "mean")
    for number in range(3):
        write_png(tmp_path / "tiles" / f"{number}.png", paint(number, (128, 128), 2.0).image, 2.0)
    export(folder, precision="int8", calibration=tmp_path / "tiles")
    graph = onnx.load(folder / "model.onnx").graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = {node.name: made.get(node.input[1]) for node in graph.node if node.op_type == "Conv"}
    for number in (1, 2):
        assert convolutions[f"member{number}_logits"] != "DequantizeLinear"
        assert convolutions[f"member{number}_bridge_conv1"] == "DequantizeLinear"


def test_its_card_keeps_what_members_share_and_where_it_comes_from(tmp_path: Path) -> None:
    paint_discs(tmp_path, 4)
    settings = {"name": "discs", "licence": "CC0", "source": "here"}
    config = changed(config_of(tmp_path, epochs=1, smoothing_px=0.4), dataset=settings)
    first = train(config).last.rename(tmp_path / "first")
    others = changed(config, train={"seed": 5}, dataset=settings | {"licence": "CC BY"})
    second = train(changed(others, tiledinfer={"threshold": 0.3})).last
    heard = RecordingProgress()
    mean = read_card(ensemble([first, second], tmp_path / "mean", progress=heard))
    one, other = read_card(first), read_card(second)
    assert (mean.network, mean.classes, mean.mpp) == (one.network, one.classes, one.mpp)
    assert (mean.threshold, mean.smoothing_px) == (0.5, 0.4)
    assert heard.warnings == [f"the models differ in threshold (0.5; 0.3): that of {first} is taken"]
    assert [member.sha256 for member in mean.members] == [c.sha256["model.keras"] for c in (one, other)]
    assert [member.data for member in mean.members] == [one.data, other.data]
    assert (mean.data.name, mean.data.licence, mean.data.images) == ("discs", "CC0; CC BY", 4)
    assert (mean.epoch, mean.scores) == (1, {})
    assert ModelCard.from_json((tmp_path / "mean/model.json").read_text()) == mean


def test_it_is_no_network_to_begin_with(write_model: Callable[..., Path], tmp_path: Path) -> None:
    mean = ensemble([write_model(seed=seed) for seed in (1, 2)], tmp_path / "mean")
    paint_discs(tmp_path, 2)
    with pytest.raises(ModelError, match="got an ensemble of 2"):
        train(changed(config_of(tmp_path), train={"pretrained": mean}))
    with pytest.raises(ModelError, match="one network, got an ensemble of 2"):
        ensemble([write_model(seed=3), mean], tmp_path / "more")


def test_what_cannot_be_averaged_is_refused_and_leaves_nothing(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    one = write_model(seed=1)
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    loaded = load_model_folder(one)
    again = tmp_path / "again"
    save_model_folder(again, loaded.model, loaded.card)
    rounded = tmp_path / "rounded"
    save_model_folder(rounded, loaded.model, loaded.card, half_weights=True)
    named = Path(shutil.copytree(write_model(seed=2), tmp_path / "named"))
    card = read_card(named)
    write_card(
        named,
        card.model_copy(
            update={"classes": (card.classes[0], card.classes[1].model_copy(update={"name": "vessel"}))}
        ),
    )
    cases = [
        ([one], UsageError, "two models or more, got 1"),
        ([one, one], UsageError, "expected different networks"),
        ([one, copy], UsageError, "expected different networks"),
        ([one, write_model(seed=2), again], UsageError, "expected different networks"),
        ([one, rounded], UsageError, "expected different networks"),
        (["glomeruli-pas", one], ModelError, "expected a network like that of .*glomeruli-pas"),
        ([one, write_model(seed=1, mpp=1.0, base_filters=8)], ModelError, "base_filters 8, not 4"),
        ([one, named], ModelError, "classes 0 background .*, 1 vessel .*, not 0 background"),
        ([one, tmp_path / "nowhere"], ModelError, "found none"),
    ]
    for models, kind, told in cases:
        with pytest.raises(kind, match=told):
            ensemble(models, tmp_path / "mean")
        assert not (tmp_path / "mean").exists()
    with pytest.raises(UsageError, match="expected a new name"):
        ensemble([one, write_model(seed=4)], copy)


def test_its_memory_is_reckoned_for_all_members(write_model: Callable[..., Path], tmp_path: Path) -> None:
    folders = [write_model(seed=seed) for seed in (1, 2)]
    both = load_model_folder(ensemble(folders, tmp_path / "mean"))
    one = activation_bytes(load_model_folder(folders[0]).model, 4)
    assert one < activation_bytes(both.model, 4) <= 2 * one + 3 * 4 * 2
    assert both.card.bytes_per_px is not None


def test_the_command_says_what_it_made(
    write_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(write_model(seed=seed)) for seed in (1, 2)]
    assert run(["ensemble", *models, "-o", str(tmp_path / "mean"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paths"] == [str(tmp_path / "mean")]
    assert run(["ensemble", models[0], "-o", str(tmp_path / "one")]) == 2
    assert "expected two models or more" in capsys.readouterr().err


def test_a_network_that_cannot_be_quantised_is_refused_in_a_line(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    write_png(tmp_path / "tiles" / "a.png", paint(1, (128, 128), 2.0).image, 2.0)
    model = write_model(seed=1, norm="group", norm_groups=4)
    with pytest.raises(ModelError, match="expected a network that ONNX Runtime can quantise"):
        export(model, tmp_path / "a.onnx", precision="int8", calibration=tmp_path / "tiles")
    assert not (tmp_path / "a.onnx").exists()
