"""Cross-validation: who is held out, that nothing is trained twice, and what is scored."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.fakes import RecordingProgress
from tests.fixtures import SIDE, changed, config_of, paint_discs

import glomtile.inference.segmenter as segmenter_module
from glomtile.cluster import Cluster
from glomtile.config.model_card import ModelCard
from glomtile.datasets.prepare import prepare
from glomtile.errors import InputError, UsageError
from glomtile.evaluation import cross_validation as module
from glomtile.evaluation.cross_validation import crossval, predictions
from glomtile.inference.quality_control import QualityFlags
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.palette import GLOMERULI
from glomtile.report.build import write_report
from glomtile.training.train import tell_of_split
from glomtile.types import SILENT

GROUPS = "stem,group,use\nd0,a,\nd1,a,\nd2,b,\nd3,c,judge\nd4,c,\nd5,n,train\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crossval")
    paint_discs(root, 6)
    (root / "groups.csv").write_text(GROUPS)
    crossval(
        config_of(root),
        root / "runs",
        folds=3,
        name="discs",
        groups=root / "groups.csv",
        against=root / "masks",
    )
    return root


def test_no_network_saw_what_it_is_judged_on(project: Path) -> None:
    held = {}
    for number in (1, 2, 3):
        fold = project / f"runs/discs/fold-{number}"
        held[number] = json.loads((fold / "held_out.json").read_text())
        seen = {path.stem for path in (fold / "train/images").iterdir()}
        assert seen == {"d0", "d1", "d2", "d4", "d5"} - set(held[number])
        card = json.loads((fold / "models/last/model.json").read_text())
        assert card["data"]["images"] == len(seen)
    assert held == {1: ["d0", "d1"], 2: ["d2"], 3: ["d3", "d4"]}


def test_every_judged_image_has_one_prediction_of_its_size(project: Path) -> None:
    predictions = sorted((project / "runs/discs/predictions").iterdir())
    assert [path.stem for path in predictions] == ["d0", "d1", "d2", "d3", "d4"]
    assert all(read_mask(path, GLOMERULI).shape == (SIDE, SIDE) for path in predictions)


def test_all_images_and_the_trusted_ones_are_scored(project: Path) -> None:
    run = project / "runs/discs"
    whole, part = (json.loads((at / "scores.json").read_text()) for at in (run, run / "trusted"))
    assert (whole["images"], part["images"]) == (5, 4)
    assert (whole["groups"], part["groups"]) == (3, 3)
    assert whole["difference"][0]["figures"]["pooled_dice"]["value"] <= 0  # against the truth itself
    page = write_report(run).read_text()
    assert page.count('<article class="card"') == 5
    assert "fold-1: train_losses" in page
    with (run / "calibration.csv").open() as table:
        assert sum(int(row["pixels"]) for row in csv.DictReader(table)) == 5 * SIDE**2
    with (project / "runs/runs.csv").open() as table:
        (row,) = csv.DictReader(table)
    figure = whole["classes"][0]["figures"]["pooled_dice"]
    assert float(row["pooled_dice"]) == pytest.approx(figure["value"], abs=1e-4)
    assert row["trusted_images"] == "4"


def test_a_finished_fold_is_not_trained_again_and_gives_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project / "runs/discs"
    weights = [(run / f"fold-{k}/models/last/model.keras").stat().st_mtime_ns for k in (1, 2, 3)]
    before = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    (run / "predictions/d2.png").unlink()
    again = crossval(
        config_of(project), project / "runs", folds=3, name="discs", groups=project / "groups.csv"
    )
    assert [(run / f"fold-{k}/models/last/model.keras").stat().st_mtime_ns for k in (1, 2, 3)] == weights
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == before
    assert len(again.scores.per_image) == 5


def test_a_stopped_fold_goes_on_to_the_same_network(project: Path, tmp_path: Path) -> None:
    """One epoch now and the other later, by the file that stops training."""
    paint_discs(tmp_path, 6)
    (tmp_path / "groups.csv").write_text(GROUPS)
    arguments = {"folds": 3, "name": "discs", "groups": tmp_path / "groups.csv"}

    class StoppedError(Exception):
        pass

    class Impatient:
        def __getattr__(self, name: str) -> object:
            return lambda *args, **figures: None

        def note(self, text: str) -> None:
            if text.startswith("epoch 1/2") and not (tmp_path / "runs/discs/fold-2").exists():
                raise StoppedError

    with pytest.raises(StoppedError):
        crossval(config_of(tmp_path), tmp_path / "runs", **arguments, progress=Impatient())
    crossval(config_of(tmp_path), tmp_path / "runs", **arguments)
    for kind in ("fold-1/models/last/model.json", "predictions/d0.png", "predictions/d4.png"):
        one, other = (root / "runs/discs" / kind for root in (project, tmp_path))
        if kind.endswith("json"):
            digests = [json.loads(path.read_text())["scores"] for path in (one, other)]
            assert digests[0] == digests[1]
        else:
            assert one.read_bytes() == other.read_bytes()


def test_other_settings_need_another_name_and_inference_may_differ(project: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.epochs 2 is now 3"):
        crossval(
            config_of(project, epochs=3),
            project / "runs",
            folds=3,
            name="discs",
            groups=project / "groups.csv",
        )
    crossval(
        config_of(project, tta="flips"),
        project / "runs",
        folds=3,
        name="discs",
        groups=project / "groups.csv",
    )


def test_a_run_begun_before_there_was_a_setting_goes_on_without_it(project: Path) -> None:
    def again() -> None:
        groups = project / "groups.csv"
        crossval(config_of(project), project / "runs", folds=3, name="discs", groups=groups)

    path = project / "runs/discs/settings.json"
    whole = path.read_text()
    known = json.loads(whole)
    try:
        assert known["settings"]["dataset"].pop("edge_share") == 0
        assert known["settings"].pop("sharpening")
        path.write_text(json.dumps(known))
        again()
        assert known["settings"]["train"].pop("epochs") == 2
        path.write_text(json.dumps(known))
        with pytest.raises(UsageError, match=r"got others: train\.epochs 100 is now 2"):
            again()
        for damaged in ("[1, 2]", "null", '{"settings": [1]}'):
            path.write_text(damaged)
            with pytest.raises(UsageError, match=r"settings of a run as a map, got"):
                again()
    finally:
        path.write_text(whole)


def test_answers_are_doubted_from_where_the_config_says_now(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folds' cards hold what it said when they were trained."""
    model = project / "runs/discs/fold-1/models/last"
    pairs = module.read_pool(config_of(project), None).pairs[:1]
    limits: list[float] = []

    def doubts(card: ModelCard, *_: object, **__: object) -> QualityFlags:
        limits.append(card.min_expected_dice)
        return QualityFlags()

    monkeypatch.setattr(segmenter_module, "assess_quality", doubts)
    for tiled in ({"min_expected_dice": 0.55}, {}):
        list(predictions(config_of(project, **tiled), model, pairs))
    assert limits == [0.55, 0.8]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("stem,group\nd0,a\n", "expected a line for every image, got none for d1"),
        (
            GROUPS.replace("d2,b,", "d2,b,maybe"),
            "empty, train or judge for d2, got 'maybe'",
        ),
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


def test_figures_are_at_the_scale_of_each_file_and_own_up_to_unknown_groups(
    project: Path, tmp_path: Path
) -> None:
    """Files without a scale have that of [dataset] image_mpp; without a table nobody knows the groups."""
    paint_discs(tmp_path, 2)
    image = read_image(tmp_path / "images/d0.png")
    Image.fromarray(image).save(tmp_path / "images/d0.png", dpi=(25.4e3 / 0.25, 25.4e3 / 0.25))
    config = config_of(tmp_path)
    assert config.dataset.image_mpp == 1.0
    pool = module.read_pool(config, None)
    pairs = {pair.stem: pair for pair in pool.judged}
    run = tmp_path / "run"
    for kind in ("predictions", "truth"):
        shutil.copytree(tmp_path / "masks", run / kind)
    module._score(config, run, list(pairs), pool, pairs, None, SILENT)
    with (run / "objects.csv").open() as table:
        rows = list(csv.DictReader(table))
    scales = {row["image"]: float(row["area_um2"]) / float(row["area_px"]) for row in rows}
    assert scales == pytest.approx({"d0": 0.0625, "d1": 1.0}, rel=1e-3)
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["groups"], scores["interval"]["of"]) == (None, "images")
    assert "Images count as independent" in write_report(run).read_text()


def test_a_name_is_no_path(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the name of a folder"):
        crossval(config_of(project), tmp_path, name="../elsewhere")


def test_masks_to_compare_with_must_be_there(project: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few/d0.png").write_bytes((project / "masks/d0.png").read_bytes())
    pool = module.read_pool(config_of(project), None)
    assert len(pool.judged) == 6
    with pytest.raises(InputError, match="expected a mask for every image, got none for d1"):
        module._link_masks(tmp_path / "few", ["d0", "d1"], tmp_path / "links")


@pytest.mark.slow
def test_folds_on_a_worker_give_the_same_predictions(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its backend's greeting, which would stand amid the client's lines, is not heard."""
    pytest.importorskip("distributed")
    crossval(
        config_of(project),
        project / "cluster",
        folds=3,
        name="discs",
        groups=project / "groups.csv",
        cluster=Cluster(workers=1),
    )
    here, there = (project / at / "discs/predictions" for at in ("runs", "cluster"))
    for path in here.iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    assert not list((project / "cluster/discs/.glomtile").glob("fold-*"))
    assert "oneDNN" not in capfd.readouterr().err


@pytest.mark.parametrize("sampling", ["crops", "tiles"])
def test_a_split_of_a_prepared_dataset_is_warned_of(tmp_path: Path, sampling: str) -> None:
    paint_discs(tmp_path, 6)
    prepare(tmp_path / "images", tmp_path / "masks", tmp_path / "set", tile_px=32)
    heard = RecordingProgress()
    tell_of_split(config_of(tmp_path), heard)
    assert heard.warnings == []
    settings = {"images_dir": "set/train/images", "masks_dir": "set/train/masks"}
    tell_of_split(changed(config_of(tmp_path), train=settings, dataset={"sampling": sampling}), heard)
    (told,) = heard.warnings
    assert "one split of a prepared dataset" in told
    assert ("tiles of one image may fall into several folds" in told) == (sampling == "tiles")
