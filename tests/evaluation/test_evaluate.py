"""Training, evaluating and labelling as the commands do it, on a small set of painted discs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fakes import RecordingProgress
from tests.fixtures import changed

from glomtile.config.load import make_config
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import Config
from glomtile.datasets.prepare import prepare
from glomtile.errors import ConfigError, ModelError
from glomtile.evaluation import evaluate as module
from glomtile.evaluation.evaluate import evaluate, tiled_infer
from glomtile.io.images import write_png
from glomtile.io.masks import read_mask, write_mask
from glomtile.palette import GLOMERULI
from glomtile.report.build import write_report
from glomtile.training.train import train

pytestmark = pytest.mark.usefixtures("eager")

SIDE, TILE, EPOCHS = 96, 64, 8


def paint_discs(folder: Path, count: int) -> None:
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in range(count):
        y, x = rng.integers(20, SIDE - 20, 2)
        labels = ((rows - y) ** 2 + (columns - x) ** 2 < 180).astype(np.uint8)
        image = (50 + 130 * labels[..., None] + rng.integers(0, 30, (SIDE, SIDE, 3))).astype(np.uint8)
        write_png(folder / "images" / f"disc{i}.png", image)
        write_mask(folder / "masks" / f"disc{i}.png", labels, GLOMERULI)


def config_of(root: Path, **model: object) -> Config:
    def split(name: str) -> dict[str, str]:
        return {"images_dir": f"dataset/{name}/images", "masks_dir": f"dataset/{name}/masks"}

    return make_config(
        {
            "model": {
                "model": "FlexUNet", "image_width": TILE, "image_height": TILE, "num_classes": 2,
                "base_filters": 8, "num_layers": 3, "dropout_rate": 0.0, "learning_rate": 0.01,
                "loss": "dice_crossentropy", **model,
            },
            "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
            "dataset": {"image_mpp": 0.5},
            "train": {
                **split("train"), "epochs": EPOCHS, "batch_size": 4, "epoch_change_infer": True,
                "epoch_change_tiled_infer": True,
            },
            "valid": split("valid"),
            "test": split("test"),
            "infer": {"images_dir": "whole/images", "output_dir": "out"},
            "tiledinfer": {
                "images_dir": "mini_test/images", "output_dir": "out_tiled", "split_size": 32,
                "overlapping": 16,
            },
        },
        root,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    paint_discs(root / "whole", 8)
    prepare(
        root / "whole/images", root / "whole/masks", root / "dataset", tile_px=TILE,
        split=(0.5, 0.25, 0.25), mini_test=root / "mini_test",
    )  # fmt: skip
    train(config_of(root))
    evaluate(config_of(root))
    return root


def test_evaluation_csv_is_the_references(trained: Path) -> None:
    lines = (trained / "evaluation.csv").read_text().splitlines()
    names = [line.split(",")[0] for line in lines]
    assert names == ["dice_crossentropy", "dice_coef_multiclass"]
    for line in lines:
        assert len(line.split(",")[1].split(".")[1]) == 4


def test_scores_are_over_whole_images_not_tiles(trained: Path) -> None:
    record = json.loads((trained / "dataset/prepare.json").read_text())
    tests = {s["stem"] for s in record["sources"] if s["split"] == "test"}
    with (trained / "evaluation/per_image.csv").open() as stream:
        assert {row["image"] for row in csv.DictReader(stream)} == tests
    assert {p.stem for p in (trained / "evaluation/predictions").iterdir()} == tests


def test_scores_agree_with_a_count_by_hand(trained: Path) -> None:
    scores = json.loads((trained / "evaluation/scores.json").read_text())
    both = predicted = true = 0
    for path in (trained / "evaluation/predictions").iterdir():
        prediction = read_mask(path, GLOMERULI) == 1
        truth = read_mask(trained / "whole/masks" / path.name, GLOMERULI) == 1
        assert prediction.shape == (SIDE, SIDE)
        both, predicted, true = (
            both + (prediction & truth).sum(),
            predicted + prediction.sum(),
            true + truth.sum(),
        )
    value = scores["classes"][0]["figures"]["pooled_dice"]["value"]
    assert value == pytest.approx(2 * both / (predicted + true))
    assert value > 0.8  # the discs are easy: a network that learnt anything finds them


def test_the_report_holds_its_pictures(trained: Path) -> None:
    page = write_report(trained / "evaluation").read_text()
    assert "data:image/" in page
    assert 'src="http' not in page


def test_the_report_shows_every_image_the_course_of_training_and_the_calibration(trained: Path) -> None:
    page = write_report(trained / "evaluation").read_text()
    tests = list((trained / "evaluation/predictions").iterdir())
    assert page.count('<article class="card"') == len(tests)
    assert all(f"epoch {number}</figcaption>" in page for number in (1, EPOCHS // 2, EPOCHS))
    assert "<h2>Calibration</h2>" in page
    assert "Left out of this page" not in page


def test_probabilities_are_counted_over_every_pixel_that_was_scored(trained: Path) -> None:
    with (trained / "evaluation/calibration.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    tests = list((trained / "evaluation/predictions").iterdir())
    true = sum(np.count_nonzero(read_mask(trained / "whole/masks" / path.name, GLOMERULI)) for path in tests)
    assert len(rows) == 256
    assert sum(int(row["pixels"]) for row in rows) == len(tests) * SIDE**2
    assert sum(int(row["true_pixels"]) for row in rows) == true


def test_results_are_flagged_below_the_limit_of_the_config(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read the limit from the config, not from the model card of the training."""
    limits: set[float] = set()

    def quality(path: Path, mpp: float | None, card: ModelCard, *_: object) -> None:
        limits.add(card.min_expected_dice)

    monkeypatch.setattr(module, "quality_of_image", quality)
    config = config_of(trained)
    asked = config.tiledinfer.model_copy(update={"min_expected_dice": 0.55})
    evaluate(config.model_copy(update={"tiledinfer": asked}))
    assert limits == {0.55}


def test_the_models_card_knows_its_figures(trained: Path) -> None:
    card = json.loads((trained / "models/best/model.json").read_text())
    assert card["scores"]["validation"]["val_loss"] > 0
    assert card["scores"]["test"]["classes"][0]["figures"]["pooled_dice"]["value"] > 0.8
    assert 1 <= card["epoch"] <= EPOCHS


def test_evaluating_again_gives_the_same_figures(trained: Path) -> None:
    names = ("scores.json", "per_image.csv", "per_class.csv")
    before = [(trained / "evaluation" / name).read_bytes() for name in names]
    evaluate(config_of(trained))
    assert [(trained / "evaluation" / name).read_bytes() for name in names] == before


def test_tiled_inference_writes_what_evaluation_scored(trained: Path) -> None:
    result = tiled_infer(config_of(trained))
    assert not result.failed
    for path in result.done:
        scored = read_mask(trained / "evaluation/predictions" / path.name, GLOMERULI)
        np.testing.assert_array_equal(read_mask(path, GLOMERULI), scored)


def test_previews_read_the_folder_of_their_own_section(trained: Path) -> None:
    """Reference §6.10: there tiled previews read ``[infer] images_dir``."""
    whole = {p.name for p in (trained / "epoch_change_infer").iterdir()}
    tiled = {p.name for p in (trained / "epoch_change_tiled_infer").iterdir()}
    assert whole == {f"Epoch_{n}_disc{i}.png" for n in range(1, EPOCHS + 1) for i in range(6)}
    stems = sorted(p.stem for p in (trained / "mini_test/images").iterdir())
    assert tiled == {f"Epoch_{n}_{stem}.png" for n in range(1, EPOCHS + 1) for stem in stems}


def test_a_model_of_other_classes_is_refused(trained: Path) -> None:
    config = config_of(trained)
    other = config.model_copy(
        update={
            "mask": config.mask.model_copy(update={"rgb_map": {(0, 0, 0): 0, (9, 9, 9): 1, (8, 8, 8): 2}})
        }
    ).located_in(config.base_dir)
    with pytest.raises(ModelError, match="3 classes"):
        evaluate(other)


def test_settings_the_trained_network_does_not_have_are_told(trained: Path) -> None:
    listening = RecordingProgress()
    evaluate(config_of(trained, base_filters=99), progress=listening)
    assert any("base_filters 8 was trained, the config has 99" in w for w in listening.warnings)


def test_masks_that_changed_since_they_were_cut_are_told(trained: Path, tmp_path: Path) -> None:
    """By training too; where nothing changed nothing is said."""
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    quiet, heard = RecordingProgress(), RecordingProgress()
    short = {"epochs": 1, "epoch_change_infer": False, "epoch_change_tiled_infer": False}
    train(changed(config_of(root), train=short), progress=quiet)
    assert not any("since prepare" in text for text in quiet.warnings)
    for mask in (root / "whole/masks").iterdir():
        Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    evaluate(config_of(root), progress=heard)
    train(changed(config_of(root), train=short), progress=heard)
    told = [text for text in heard.warnings if "changed since prepare" in text]
    assert [text[: text.index(":")] for text in told] == ["[test]", "[train]", "[valid]"]
    assert " and 1 more changed" in told[1]
    assert all("run prepare again" in text for text in told)


@pytest.mark.parametrize("key", ["model_dir", "eval_dir"])
def test_what_the_dataset_was_prepared_from_is_not_moved_aside(trained: Path, key: str) -> None:
    config = changed(config_of(trained), train={key: trained / "whole/images"})
    before = sorted((trained / "whole").iterdir())
    with pytest.raises(ConfigError, match="expected a folder of its own for what training writes"):
        train(config)
    assert sorted((trained / "whole").iterdir()) == before


def test_masks_do_not_land_on_those_made_by_hand(trained: Path) -> None:
    config = config_of(trained)
    for folder in ("dataset/test/masks", "mini_test/masks", "dataset/train/images"):
        section = config.tiledinfer.model_copy(update={"output_dir": Path(folder)})
        with pytest.raises(ConfigError, match="expected another folder"):
            tiled_infer(config.model_copy(update={"tiledinfer": section}).located_in(config.base_dir))


def test_a_changed_network_is_refused_by_its_digest(trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "project"
    shutil.copytree(trained, copy)
    network = copy / "models/best/model.keras"
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="SHA-256"):
        evaluate(config_of(copy))
