"""Sweeps: which runs there are, that each is a cross-validation as it would be alone, here and on workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fixtures import config_of, paint_discs

from glomtile.cluster import Cluster
from glomtile.config.toml import to_toml
from glomtile.errors import ConfigError, GlomtileError, UsageError
from glomtile.evaluation.cross_validation import MOST_RUNS, crossval, sweep, variants
from glomtile.io.tables import read_csv


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    paint_discs(root, 4)
    (root / "discs.toml").write_text(to_toml(config_of(root, epochs=1)))
    return root


def test_values_of_one_key_are_alternatives_and_keys_are_combined(project: Path) -> None:
    varied = ["train.epochs=1", "model.loss=dice_loss", "train.epochs=2", "model.loss = focal"]
    configs = variants(project / "discs.toml", ["train.seed=5"], varied)
    assert {name: (c.train.epochs, c.model.loss, c.train.seed) for name, c in configs.items()} == {
        "discs-epochs=1-loss=dice_loss": (1, "dice_loss", 5),
        "discs-epochs=1-loss=focal": (1, "focal", 5),
        "discs-epochs=2-loss=dice_loss": (2, "dice_loss", 5),
        "discs-epochs=2-loss=focal": (2, "focal", 5),
    }
    assert list(variants(project / "discs.toml", [], ["train.epochs=3"], "short")) == ["short-epochs=3"]
    (called,) = variants(project / "discs.toml", [], ["train.images_dir=../a b/c"])
    assert called == "discs-images_dir=.._a_b_c"
    (called,) = variants(project / "discs.toml", [], ['model.loss="focal"'])
    assert called == "discs-loss=focal"


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
def test_what_is_no_variation_is_refused(project: Path, varied: list[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        variants(project / "discs.toml", ["train.batch_size=4"], varied)


def test_each_run_is_what_it_is_alone_and_has_its_row(project: Path) -> None:
    configs = variants(project / "discs.toml", [], ["train.seed=1", "train.seed=2"])
    results = sweep(configs, project / "runs", folds=2)
    assert list(results) == ["discs-seed=1", "discs-seed=2"]
    rows = list(read_csv(project / "runs/runs.csv"))
    assert [row["name"] for row in rows] == list(results)
    alone = crossval(configs["discs-seed=2"], project / "alone", folds=2, name="discs-seed=2")
    for path in (project / "alone/discs-seed=2/predictions").iterdir():
        assert (project / "runs/discs-seed=2/predictions" / path.name).read_bytes() == path.read_bytes()
    dices = [
        result.scores.scores.classes[0].figures["pooled_dice"].value
        for result in (alone, results["discs-seed=2"])
    ]
    assert dices[0] == dices[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("train.images_dir=nowhere", "nowhere"),
        ("model.loss=dice", "loss: expected one of"),
        ("model.num_layers=9", "expected a multiple of 256"),
        ("model.num_classes=3", "expected the 2 classes"),
    ],
)
def test_a_run_that_cannot_be_stops_all_before_any_is_trained(
    project: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    configs = variants(project / "discs.toml", [], ["train.seed=1"])
    configs["other"] = variants(project / "discs.toml", [], [wrong]).popitem()[1]
    with pytest.raises(GlomtileError, match=message):
        sweep(configs, tmp_path / "early", folds=2)
    assert not list((tmp_path / "early").glob("*/fold-*"))


@pytest.mark.slow
def test_workers_take_the_folds_of_all_runs(project: Path) -> None:
    pytest.importorskip("distributed")
    configs = variants(project / "discs.toml", [], ["train.seed=1", "train.seed=2"])
    sweep(configs, project / "here", folds=2)
    sweep(configs, project / "there", folds=2, cluster=Cluster(workers=1))
    for name in configs:
        folds = [project / "there" / name / f"fold-{n}/held_out.json" for n in (1, 2)]
        held = [stem for fold in folds for stem in json.loads(fold.read_text())]
        assert sorted(held) == ["d0", "d1", "d2", "d3"]
        for path in (project / "here" / name / "predictions").iterdir():
            assert (project / "there" / name / "predictions" / path.name).read_bytes() == path.read_bytes()
