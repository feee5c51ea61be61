"""Cross-validation and sweeps: held-out images, continued runs, scores, here and on workers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from PIL import Image
from tests.fakes import RecordingProgress
from tests.fixtures import SIDE, changed, config_of, paint_discs

import glomtile.inference.segmenter as segmenter_module
from glomtile.cluster import Cluster
from glomtile.config.model_card import ModelCard
from glomtile.config.toml import to_toml
from glomtile.datasets.prepare import prepare
from glomtile.errors import ConfigError, GlomtileError, InputError, UsageError
from glomtile.evaluation.cross_validation import (
    MOST_RUNS,
    CrossvalResult,
    crossval,
    predict,
    read_pool,
    sweep,
    variants,
)
from glomtile.inference.quality_control import QualityFlags
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.io.tables import read_csv
from glomtile.palette import GLOMERULI
from glomtile.report.build import write_report
from glomtile.training.train import warn_of_split

pytestmark = pytest.mark.usefixtures("eager")

GROUPS = "stem,group,use\nd0,a,\nd1,a,\nd2,b,\nd3,c,judge\nd4,c,\nd5,n,train\n"


def paint(root: Path) -> None:
    """Six images, the first with a scale of its own, and their groups."""
    paint_discs(root, 6)
    image = read_image(root / "images/d0.png")
    Image.fromarray(image).save(root / "images/d0.png", dpi=(25.4e3 / 0.25, 25.4e3 / 0.25))
    (root / "groups.csv").write_text(GROUPS)


def run(root: Path, out: str = "runs", **settings: object) -> CrossvalResult:
    """Three folds of the images above, by default as the fixture trained them."""
    more = {key: settings.pop(key) for key in ("against", "cluster", "progress") if key in settings}
    groups = root / "groups.csv"
    return crossval(config_of(root, **settings), root / out, folds=3, name="discs", groups=groups, **more)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crossval")
    paint(root)
    run(root, against=root / "masks")
    return root


def test_no_network_was_trained_on_images_it_is_judged_on(project: Path) -> None:
    held_out = {}
    for number in (1, 2, 3):
        fold = project / f"runs/discs/fold-{number}"
        held_out[number] = json.loads((fold / "held_out.json").read_text())
        trained = {path.stem for path in (fold / "train/images").iterdir()}
        assert trained == {"d0", "d1", "d2", "d4", "d5"} - set(held_out[number])
        card = json.loads((fold / "models/last/model.json").read_text())
        assert card["data"]["images"] == len(trained)
    assert held_out == {1: ["d0", "d1"], 2: ["d2"], 3: ["d3", "d4"]}


def test_every_judged_image_has_one_prediction_of_its_size(project: Path) -> None:
    predictions = sorted((project / "runs/discs/predictions").iterdir())
    assert [path.stem for path in predictions] == ["d0", "d1", "d2", "d3", "d4"]
    assert all(read_mask(path, GLOMERULI).shape == (SIDE, SIDE) for path in predictions)


def test_all_images_and_the_trusted_ones_are_scored(project: Path) -> None:
    folder = project / "runs/discs"
    whole, part = (json.loads((at / "scores.json").read_text()) for at in (folder, folder / "trusted"))
    assert (whole["images"], part["images"]) == (5, 4)
    assert (whole["groups"], part["groups"]) == (3, 3)
    assert whole["difference"][0]["figures"]["pooled_dice"]["value"] <= 0  # against the truth itself
    page = write_report(folder).read_text()
    assert page.count('<article class="card"') == 5
    assert "fold-1: train_losses" in page
    with (folder / "calibration.csv").open() as table:
        assert sum(int(row["pixels"]) for row in csv.DictReader(table)) == 5 * SIDE**2
    (row,) = read_csv(project / "runs/runs.csv")
    figure = whole["classes"][0]["figures"]["pooled_dice"]
    assert float(row["pooled_dice"]) == pytest.approx(figure["value"], abs=1e-4)
    assert row["trusted_images"] == "4"


def test_each_image_is_measured_at_its_own_scale(project: Path) -> None:
    """A file without a scale has that of [dataset] image_mpp."""
    assert config_of(project).dataset.image_mpp == 1.0
    rows = read_csv(project / "runs/discs/objects.csv")
    scales = {row["image"]: float(row["area_um2"]) / float(row["area_px"]) for row in rows}
    assert scales == pytest.approx({"d0": 0.0625, "d1": 1.0, "d2": 1.0, "d3": 1.0, "d4": 1.0}, rel=1e-3)


def test_a_finished_fold_is_not_trained_again_and_gives_the_same(project: Path) -> None:
    folder = project / "runs/discs"
    weights = [folder / f"fold-{k}/models/last/model.keras" for k in (1, 2, 3)]
    times = [path.stat().st_mtime_ns for path in weights]
    before = {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    (folder / "predictions/d2.png").unlink()
    again = run(project)
    assert [path.stat().st_mtime_ns for path in weights] == times
    assert {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()} == before
    assert len(again.scores.per_image) == 5


def test_a_stopped_fold_continues_to_the_same_network(project: Path, tmp_path: Path) -> None:
    paint(tmp_path)

    class StoppedError(Exception):
        pass

    class StopsInFirstEpoch:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args, **figures: None

        def note(self, text: str) -> None:
            if text.startswith("epoch 1/2") and not (tmp_path / "runs/discs/fold-2").exists():
                raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path, progress=StopsInFirstEpoch())
    run(tmp_path)
    one, other = (root / "runs/discs" for root in (project, tmp_path))
    cards = [json.loads((root / "fold-1/models/last/model.json").read_text()) for root in (one, other)]
    assert cards[0]["scores"] == cards[1]["scores"]
    for name in ("predictions/d0.png", "predictions/d4.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_other_settings_need_another_name_and_inference_may_differ(project: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.epochs 2 is now 3"):
        run(project, epochs=3)
    run(project, tta="flips")


def test_a_run_of_a_version_without_a_setting_continues_with_its_default(project: Path) -> None:
    path = project / "runs/discs/settings.json"
    whole = path.read_text()
    known = json.loads(whole)
    try:
        assert known["settings"]["dataset"].pop("edge_share") == 0
        assert known["settings"].pop("sharpening")
        path.write_text(json.dumps(known))
        run(project)
        assert known["settings"]["train"].pop("epochs") == 2
        path.write_text(json.dumps(known))
        with pytest.raises(UsageError, match=r"got others: train\.epochs 100 is now 2"):
            run(project)
        for damaged in ("[1, 2]", "null", '{"settings": [1]}'):
            path.write_text(damaged)
            with pytest.raises(UsageError, match=r"expected the settings of a run"):
                run(project)
    finally:
        path.write_text(whole)


def test_the_config_decides_from_which_dice_a_prediction_is_flagged(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folds' cards hold the value of their training."""
    model = project / "runs/discs/fold-1/models/last"
    pairs = read_pool(config_of(project), None).pairs[:1]
    limits: list[float] = []

    def assess(card: ModelCard, *_: object, **__: object) -> QualityFlags:
        limits.append(card.min_expected_dice)
        return QualityFlags()

    monkeypatch.setattr(segmenter_module, "assess_quality", assess)
    for tiled in ({"min_expected_dice": 0.55}, {}):
        list(predict(config_of(project, **tiled), model, pairs))
    assert limits == [0.55, 0.8]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("stem,group\nd0,a\n", "expected a line for every image, got none for d1"),
        (GROUPS.replace("d2,b,", "d2,b,maybe"), "empty, train or judge for d2, got 'maybe'"),
        (GROUPS.replace("d2,b,", "d2,,"), "expected a group for every image, got an empty cell for d2"),
        (GROUPS + "d0,z,\n", "expected one group for d0, got 'a' and 'z'"),
    ],
)
def test_a_table_of_groups_that_does_not_fit_is_refused(
    project: Path, tmp_path: Path, table: str, message: str
) -> None:
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        crossval(config_of(project), tmp_path / "runs", folds=3, groups=tmp_path / "groups.csv")
    assert not (tmp_path / "runs").exists()


def test_a_name_is_no_path(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the name of a folder"):
        crossval(config_of(project), tmp_path, name="../elsewhere")


def test_missing_masks_to_compare_with_are_named_before_training(project: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    shutil.copy(project / "masks/d0.png", tmp_path / "few")
    with pytest.raises(InputError, match="few: expected a mask for every image, got none for d1, d2, d3, d4"):
        crossval(config_of(project), tmp_path / "runs", folds=3, against=tmp_path / "few")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_folds_on_a_worker_give_the_same_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The backend's log lines in the worker stay out of the client's output."""
    pytest.importorskip("distributed")
    paint_discs(tmp_path, 2)
    config = config_of(tmp_path, epochs=1)
    monkeypatch.delattr(keras.Model, "run_eagerly")  # a worker traces graphs
    crossval(config, tmp_path / "here", folds=2, name="discs")
    crossval(config, tmp_path / "there", folds=2, name="discs", cluster=Cluster(workers=1))
    for path in (tmp_path / "here/discs/predictions").iterdir():
        assert (tmp_path / "there/discs/predictions" / path.name).read_bytes() == path.read_bytes()
    assert "oneDNN" not in capfd.readouterr().err


@pytest.mark.parametrize("sampling", ["crops", "tiles"])
def test_a_split_of_a_prepared_dataset_is_warned_of(tmp_path: Path, sampling: str) -> None:
    paint_discs(tmp_path, 6)
    prepare(tmp_path / "images", tmp_path / "masks", tmp_path / "set", tile_px=32)
    progress = RecordingProgress()
    warn_of_split(config_of(tmp_path), progress)
    assert progress.warnings == []
    settings = {"images_dir": "set/train/images", "masks_dir": "set/train/masks"}
    warn_of_split(changed(config_of(tmp_path), train=settings, dataset={"sampling": sampling}), progress)
    (warning,) = progress.warnings
    assert "one split of a prepared dataset" in warning
    assert ("tiles of one image may fall into several folds" in warning) == (sampling == "tiles")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    paint_discs(root, 4)
    (root / "discs.toml").write_text(to_toml(config_of(root, epochs=1)))
    return root


def test_values_of_one_key_are_alternatives_and_keys_are_combined(swept: Path) -> None:
    varied = ["train.epochs=1", "model.loss=dice_loss", "train.epochs=2", "model.loss = focal"]
    configs = variants(swept / "discs.toml", ["train.seed=5"], varied)
    assert {name: (c.train.epochs, c.model.loss, c.train.seed) for name, c in configs.items()} == {
        "discs-epochs=1-loss=dice_loss": (1, "dice_loss", 5),
        "discs-epochs=1-loss=focal": (1, "focal", 5),
        "discs-epochs=2-loss=dice_loss": (2, "dice_loss", 5),
        "discs-epochs=2-loss=focal": (2, "focal", 5),
    }
    assert list(variants(swept / "discs.toml", [], ["train.epochs=3"], "short")) == ["short-epochs=3"]
    assert list(variants(swept / "discs.toml", [], ["train.images_dir=../a b/c"])) == [
        "discs-images_dir=.._a_b_c"
    ]
    assert list(variants(swept / "discs.toml", [], ['model.loss="focal"'])) == ["discs-loss=focal"]


@pytest.mark.parametrize(
    ("varied", "error", "message"),
    [
        (["train.epochs"], UsageError, "expected SECTION.KEY=VALUE, got 'train.epochs'"),
        (["train.epochs=2", "train.epochs= 2"], UsageError, "expected each value once"),
        (["train.images_dir=a/b", "train.images_dir=a b"], UsageError, "images_dir=a_b twice"),
        (["train.epochs=many"], ConfigError, r"--vary \[train\] epochs"),
        (["train.batch_size=2"], UsageError, "either varied or set"),
        (["train.model_dir=x"], UsageError, "got train.model_dir, which each fold has"),
        (["train.epoch=2"], ConfigError, r"--vary \[train\] epoch"),
        (
            ["train.epochs=0", "train.seed=x"],
            ConfigError,
            r"(?s)--vary \[train\] epochs.*--vary \[train\] seed",
        ),
        ([f"train.seed={n}" for n in range(MOST_RUNS + 1)], UsageError, "at most 1,000 runs, got 1,001"),
    ],
)
def test_an_impossible_variation_is_refused(
    swept: Path, varied: list[str], error: type[GlomtileError], message: str
) -> None:
    with pytest.raises(error, match=message):
        variants(swept / "discs.toml", ["train.batch_size=4"], varied)


def test_each_run_of_a_sweep_is_the_same_as_alone_and_has_its_row(swept: Path) -> None:
    configs = variants(swept / "discs.toml", [], ["train.seed=1", "train.seed=2"])
    results = sweep(configs, swept / "runs", folds=2)
    assert [row["name"] for row in read_csv(swept / "runs/runs.csv")] == list(results)
    assert list(results) == ["discs-seed=1", "discs-seed=2"]
    alone = crossval(configs["discs-seed=2"], swept / "alone", folds=2, name="discs-seed=2")
    for path in (swept / "alone/discs-seed=2/predictions").iterdir():
        assert (swept / "runs/discs-seed=2/predictions" / path.name).read_bytes() == path.read_bytes()
    dice = [
        result.scores.scores.classes[0].figures["pooled_dice"] for result in (alone, results["discs-seed=2"])
    ]
    assert dice[0] == dice[1]
    scores = json.loads((swept / "alone/discs-seed=2/scores.json").read_text())
    assert (scores["groups"], scores["interval"]["of"]) == (None, "images")
    assert "Images count as independent" in write_report(swept / "alone/discs-seed=2").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("train.images_dir=nowhere", "nowhere"),
        ("model.loss=dice", "loss: expected one of"),
        ("model.num_layers=9", "expected a multiple of 256"),
        ("model.num_classes=3", "expected the 2 classes"),
    ],
)
def test_an_impossible_run_stops_all_before_any_is_trained(
    swept: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    configs = variants(swept / "discs.toml", [], ["train.seed=1"])
    configs["other"] = variants(swept / "discs.toml", [], [wrong]).popitem()[1]
    with pytest.raises(GlomtileError, match=message):
        sweep(configs, tmp_path / "early", folds=2)
    assert not list((tmp_path / "early").glob("*/fold-*"))


@pytest.mark.slow
@pytest.mark.long
def test_workers_take_the_folds_of_all_runs(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.delattr(keras.Model, "run_eagerly")
    configs = variants(swept / "discs.toml", [], ["train.seed=1", "train.seed=2"])
    sweep(configs, swept / "here", folds=2)
    sweep(configs, swept / "there", folds=2, cluster=Cluster(workers=1))
    stems = [f"d{number}" for number in range(4)]
    for name in configs:
        folds = [swept / "there" / name / f"fold-{n}/held_out.json" for n in (1, 2)]
        assert sorted(stem for fold in folds for stem in json.loads(fold.read_text())) == stems
        for path in (swept / "here" / name / "predictions").iterdir():
            assert (swept / "there" / name / "predictions" / path.name).read_bytes() == path.read_bytes()
