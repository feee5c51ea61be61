"""Training: what follows from the history, and that a resumed run is the uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.fakes import RecordingProgress

from glomtile.config.load import load_config, make_config
from glomtile.errors import ConfigError, InputError, LockedError, ModelError
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.models.folder import load_model_folder
from glomtile.networks.losses import build_loss
from glomtile.networks.metrics import build_metrics
from glomtile.networks.registry import build_model
from glomtile.palette import GLOMERULI
from glomtile.training.callbacks import CurveFiles, EpochEnd, reductions, stale_epochs, to_json, values
from glomtile.training.samples import batches, judging_source, training_source
from glomtile.training.train import train
from glomtile.training.trainer import NOTES_FILE, Training, judge, make_deterministic, read_notes

pytestmark = pytest.mark.usefixtures("eager")

SIDE = 32


def write_dataset(root: Path, counts: dict[str, int]) -> None:
    """Bright discs on dark ground: something a small network can learn."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for split, count in counts.items():
        for i in range(count):
            y, x = rng.integers(8, SIDE - 8, 2)
            labels = ((rows - y) ** 2 + (columns - x) ** 2 < 36).astype(np.uint8)
            image = (60 + 120 * labels[..., None] + rng.integers(0, 40, (SIDE, SIDE, 3))).astype(np.uint8)
            (root / split / "images").mkdir(parents=True, exist_ok=True)
            (root / split / "masks").mkdir(parents=True, exist_ok=True)
            write_png(root / split / "images" / f"{i}.png", image)
            write_mask(root / split / "masks" / f"{i}.png", labels, GLOMERULI)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    write_dataset(root, {"train": 6, "valid": 2})
    return root


def settings(dataset: Path, **train_settings: object) -> dict[str, dict[str, object]]:
    return {
        "model": {
            "model": "FlexUNet", "image_width": SIDE, "image_height": SIDE, "num_classes": 2,
            "base_filters": 4, "num_layers": 3, "dropout_rate": 0.1, "norm": "batch",
            "learning_rate": 0.01, "optimizer": "AdamW", "loss": "dice_crossentropy",
        },
        "augmentor": {"enabled": True, "free_rotation": True, "stain": 0.5},
        "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
        "train": {
            "images_dir": str(dataset / "train/images"), "masks_dir": str(dataset / "train/masks"),
            "epochs": 4, "batch_size": 4, "ema_decay": 0.8, "epoch_change_infer": False,
            "learning_rate_reducer": True, "reducer_patience": 1, "reducer_factor": 0.5,
            **train_settings,
        },
        "valid": {"images_dir": str(dataset / "valid/images"), "masks_dir": str(dataset / "valid/masks")},
    }  # fmt: skip


def state_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "models/last/training.npz") as state:
        return {name: state[name] for name in state.files}


def assert_same_run(one: Path, other: Path) -> None:
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    histories = [
        json.loads((run / "models/last/training.json").read_text())["history"] for run in (one, other)
    ]
    assert histories[0] == histories[1]
    assert (one / "eval/train_losses.csv").read_bytes() == (other / "eval/train_losses.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(make_config(settings(dataset), folder))
    return folder


def test_the_loss_falls_and_the_history_is_json(undisturbed: Path) -> None:
    """Reference §6.9: there ``history.json`` is the text of a Python dictionary."""
    history = json.loads((undisturbed / "history.json").read_text())
    assert history["loss"][-1] < history["loss"][0]


def test_all_files_of_the_reference_appear(undisturbed: Path) -> None:
    losses = (undisturbed / "eval/train_losses.csv").read_text().splitlines()
    assert losses[0] == "epoch, loss, val_loss"
    assert [line.split(",")[0] for line in losses[1:]] == ["0", "1", "2", "3"]
    metrics = (undisturbed / "eval/train_metrics.csv").read_text().splitlines()
    assert metrics[0] == "epoch,dice_coef_multiclass,val_dice_coef_multiclass,"
    for name in ("train_losses.png", "train_metrics.png"):
        assert (undisturbed / "eval" / name).stat().st_size > 1000
    for name in ("best", "last"):
        assert (undisturbed / "models" / name / "model.keras").is_file()


def test_the_same_seed_gives_the_same_weights(dataset: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Reference §6.8: there nothing but the backend is seeded."""
    train(make_config(settings(dataset), tmp_path))
    assert_same_run(undisturbed, tmp_path)


LARGER_RUN = """
import hashlib
import numpy as np
from importlib.resources import files
from glomtile.config.load import load_config
from glomtile.training.trainer import make_deterministic
from glomtile.training.train import _compiled

make_deterministic(7)
config = load_config(files("glomtile.cli") / "templates" / "demo.toml")
_, model = _compiled(config, 12)
rng = np.random.default_rng(0)
shape = 8, config.model.image_height, config.model.image_width
images = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
for _ in range(3):
    model.train_on_batch(images, rng.integers(0, 2, shape, dtype=np.uint8))
weights = [np.asarray(v).tobytes() for v in model.trainable_variables]
print(hashlib.sha256(b"".join(weights)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_demos_network_takes_the_same_steps_in_every_process() -> None:
    """A network of 32 px is too small for the race between sums that one of 192 px loses."""
    command = [sys.executable, "-W", "error:::glomtile", "-c", LARGER_RUN]
    digests = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(2)
    ]
    assert len(set(digests)) == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's alone to tell")
def test_a_process_that_may_not_repeat_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    def too_late(threads: int) -> None:
        raise RuntimeError("cannot be modified after initialization")

    monkeypatch.setattr(tf.config.threading, "get_inter_op_parallelism_threads", lambda: 0)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", too_late)
    progress = RecordingProgress()
    make_deterministic(1, progress)
    assert "last bits" in progress.warnings[0]


def test_another_seed_gives_other_weights(dataset: Path, undisturbed: Path, tmp_path: Path) -> None:
    train(make_config(settings(dataset, seed=5, epochs=1), tmp_path))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(state_of(undisturbed).values(), state_of(tmp_path).values(), strict=True)
    )


def test_a_run_whose_epochs_are_raised_ends_as_if_it_had_never_stopped(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    train(make_config(settings(dataset, epochs=2), tmp_path))
    train(make_config(settings(dataset), tmp_path), resume=True)
    assert_same_run(undisturbed, tmp_path)


def test_the_stop_file_ends_training_after_the_epoch_and_resume_goes_on(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    notes = []

    class StopSoon:
        def start(self, title: str, total: int | None = None) -> None:
            if title == "epoch 2/4":
                (tmp_path / "break_training").touch()

        def advance(self, steps: int = 1, **figures: float | str) -> None: ...
        def warn(self, text: str) -> None: ...

        def note(self, text: str) -> None:
            notes.append(text)

    result = train(make_config(settings(dataset), tmp_path), progress=StopSoon())
    assert len(result.history) == 2
    told = [text for text in notes if text.startswith("epoch ")]
    assert len(told) == 2
    assert all(re.search(r" · [\d.:]+ (s|min), [\d.:]+ (s|min) left$", text) for text in told)
    assert "break_training" in result.reason
    assert not (tmp_path / "break_training").exists()
    train(make_config(settings(dataset), tmp_path), resume=True)
    assert_same_run(undisturbed, tmp_path)


KILLED_RUN = """
import json, sys
from pathlib import Path
from glomtile.config.load import load_config, make_config
from glomtile.training.train import train

def unkey(settings):
    settings["mask"]["rgb_map"] = {(0, 0, 0): 0, (255, 0, 0): 1}
    return settings

resume = sys.argv[3] == "resume"
train(make_config(unkey(json.loads(sys.argv[1])), Path(sys.argv[2])), resume=resume)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint_steps", "wait_s"),
    [(1, 0.1), *(pytest.param(*case, marks=pytest.mark.long) for case in ((0, 0.0), (1, 0.3), (1, 1.1)))],
)
def test_a_killed_run_resumes_to_the_same_weights(
    dataset: Path, tmp_path: Path, checkpoint_steps: int, wait_s: float
) -> None:
    def start(name: str, resume: str) -> subprocess.Popen[str]:
        told = settings(dataset, epochs=2, checkpoint_steps=checkpoint_steps)
        told["model"]["num_layers"], told["mask"] = 2, {}
        command = [sys.executable, "-c", KILLED_RUN, json.dumps(told), str(tmp_path / name), resume]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    whole, run = start("whole", "new"), start("cut", "new")
    notes = tmp_path / "cut/models/last/training.json"
    deadline = time.monotonic() + 120
    while not notes.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(wait_s)
    run.kill()
    run.communicate()
    for process in (start("cut", "resume"), whole):
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_second_training_in_the_same_model_dir_is_refused_and_touches_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    content = settings(dataset, epochs=500, checkpoint_steps=1)
    content["mask"] = {}
    command = [sys.executable, "-c", KILLED_RUN, json.dumps(content), str(tmp_path), "new"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "models/last").exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGSTOP)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for model_dir in ("models", str(tmp_path / "elsewhere/../models")):
            second = make_config(settings(dataset, epochs=1, model_dir=model_dir), tmp_path)
            with pytest.raises(
                LockedError, match=rf"models: expected no other run .* {run.pid} on "
            ) as refused:
                train(second)
            assert refused.value.exit_code == 2
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    finally:
        run.kill()
        run.wait()
    assert len(train(make_config(settings(dataset, epochs=1), tmp_path)).history) == 1
    assert len(list(tmp_path.glob("models-2*"))) == 1


def test_resume_refuses_other_settings_and_names_them(dataset: Path, tmp_path: Path) -> None:
    train(make_config(settings(dataset, epochs=1), tmp_path))
    other = settings(dataset, epochs=2, batch_size=2)
    with pytest.raises(ConfigError, match=r"train\.batch_size: 4 then, 2 now"):
        train(make_config(other, tmp_path), resume=True)


def test_a_run_begun_before_there_was_a_setting_goes_on_without_it(dataset: Path, tmp_path: Path) -> None:
    train(make_config(settings(dataset, epochs=1), tmp_path))
    path = tmp_path / "models/last/training.json"
    notes = json.loads(path.read_text())
    del notes["settings"]["dataset.edge_share"], notes["settings"]["augmentor.other_dyes"]
    path.write_text(json.dumps(notes))
    other = settings(dataset, epochs=2)
    other["augmentor"]["other_dyes"] = 0.5
    with pytest.raises(ConfigError, match=r"other ones: augmentor\.other_dyes: 0\.0 then, 0\.5 now\b"):
        train(make_config(other, tmp_path), resume=True)
    assert len(train(make_config(settings(dataset, epochs=2), tmp_path), resume=True).history) == 2


def test_resume_refuses_other_data_and_follows_moved_folders(tmp_path: Path) -> None:
    data, moved, run = tmp_path / "data", tmp_path / "moved", tmp_path / "run"
    write_dataset(data, {"train": 3, "valid": 2})
    train(make_config(settings(data, epochs=1), run))
    data.rename(moved)
    config = make_config(settings(moved, epochs=2), run)
    for split, name, count in (("train", "training", 3), ("valid", "validation", 2)):
        image = moved / split / "images/1.png"
        kept = image.read_bytes()
        write_png(image, np.zeros((SIDE, SIDE, 3), np.uint8))
        message = rf"last: .*: data\.{name}: '{count} images, .* then, '{count} images"
        with pytest.raises(ConfigError, match=message):
            train(config, resume=True)
        image.write_bytes(kept)
    assert len(train(config, resume=True).history) == 2


def test_resume_refuses_images_added_where_crops_are_counted(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 3, "valid": 1})
    content = settings(tmp_path / "data", epochs=1)
    content["dataset"] = {"sampling": "crops", "samples_per_epoch": 4}
    train(make_config(content, tmp_path))
    for kind in ("images", "masks"):
        folder = tmp_path / "data/train" / kind
        (folder / "new.png").write_bytes((folder / "0.png").read_bytes())
    content["train"]["epochs"] = 2
    with pytest.raises(ConfigError, match=r"got other ones: data\.training: '3 images, .* now \("):
        train(make_config(content, tmp_path), resume=True)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("[]", "expected the state of a run, got JSON that is no object"),
        ("{}", "expected settings of a run as dict, got NoneType"),
        ('{"settings": {}, "history": 3, "step": 0}', "expected history of a run as list, got int"),
        ('{"settings": {}, "history": [1], "step": 0}', "expected history of a run as a list of dict"),
        ('{"settings": {}, "history": [], "step": "x"}', "expected step of a run as int, got str"),
        ('{"settings": {"a": 1, "b": 1, "c": 1}, "history": [], "step": 0}', r"; and \d+ more \("),
        ("", "expected the state of a run, got unreadable JSON"),
    ],
)
def test_resume_of_a_state_of_another_kind_says_what_is_wrong(
    dataset: Path, tmp_path: Path, state: str, told: str
) -> None:
    path = tmp_path / "models/last/training.json"
    path.parent.mkdir(parents=True)
    path.write_text(state)
    with pytest.raises((ModelError, ConfigError), match=told):
        train(make_config(settings(dataset, epochs=1), tmp_path), resume=True)


def test_resume_without_a_run_says_so(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected the state of a run to resume, got none"):
        train(make_config(settings(dataset), tmp_path), resume=True)


def test_resume_of_a_damaged_state_says_which_file(dataset: Path, tmp_path: Path) -> None:
    train(make_config(settings(dataset, epochs=1), tmp_path))
    state = tmp_path / "models/last/training.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"training\.npz"):
        train(make_config(settings(dataset, epochs=2), tmp_path), resume=True)
    state.write_text("no archive")
    with pytest.raises(ModelError, match=r"training\.npz: .* got: something else"):
        train(make_config(settings(dataset, epochs=2), tmp_path), resume=True)


def test_a_new_run_moves_the_old_one_aside_and_deletes_nothing(dataset: Path, tmp_path: Path) -> None:
    """Reference §6.5: it deletes models and evaluation before it starts."""
    train(make_config(settings(dataset, epochs=1), tmp_path))
    digest = (tmp_path / "models/best/model.keras").read_bytes()
    train(make_config(settings(dataset, epochs=1, seed=3), tmp_path))
    aside = [p for p in tmp_path.iterdir() if p.name.startswith("models-")]
    assert len(aside) == 1
    assert (aside[0] / "best/model.keras").read_bytes() == digest


def test_a_failing_start_leaves_the_old_run_alone(dataset: Path, tmp_path: Path) -> None:
    train(make_config(settings(dataset, epochs=1), tmp_path))
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    wrong = settings(dataset, epochs=1)
    wrong["mask"]["rgb_map"] = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}
    wrong["model"]["num_classes"] = 3
    with pytest.raises(InputError, match="got none of 2"):
        train(make_config(wrong, tmp_path))
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_what_fails_in_the_first_epoch_leaves_the_old_run_alone(dataset: Path, tmp_path: Path) -> None:
    import shutil

    train(make_config(settings(dataset, epochs=1), tmp_path))
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    shutil.copytree(dataset, tmp_path.parent / "cut")
    picture = tmp_path.parent / "cut" / "train" / "images" / "3.png"
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"3\.png"):
        train(make_config(settings(tmp_path.parent / "cut", epochs=1), tmp_path))
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_a_run_is_not_written_over_its_data(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder of its own"):
        train(make_config(settings(dataset, eval_dir=str(dataset / "train/images")), tmp_path))
    assert len(list((dataset / "train/images").iterdir())) == 6


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "num_classes", 3, "expected the 2 classes of"),
        ("model", "image_width", 30, "image_width: expected a multiple of 4"),
        ("train", "schedule", "cosine", "schedule"),
        ("train", "model_dir", ".", "a folder of its own"),
        ("train", "model_dir", "..", "a folder of its own"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_before_anything_is_loaded(
    dataset: Path, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    content = settings(dataset)
    content[section][key] = value
    with pytest.raises(ConfigError, match=message):
        train(make_config(content, tmp_path / "project"))


def test_the_settings_in_force_lie_beside_the_model(undisturbed: Path, dataset: Path) -> None:

    written = load_config(undisturbed / "models/settings.toml")
    assert written.train.batch_size == 4
    assert written.model.base_filters == 4


def test_a_stop_file_left_from_before_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "break_training").touch()
    with pytest.raises(ConfigError, match="stop file"):
        train(make_config(settings(dataset, epochs=1), tmp_path))


@pytest.mark.parametrize(
    ("figures", "patience", "expected"),
    [
        ([3, 2, 1], 2, 0),
        ([1, 1, 1], 2, 1),
        ([1, 1, 1, 1, 1], 2, 2),
        ([1, 2, 0.5, 2, 2], 2, 1),
        ([1, 0.99995, 0.9999, 0.99985], 3, 0),
        ([], 1, 0),
    ],
)
def test_the_rate_falls_once_a_plateau(figures: list[float], patience: int, expected: int) -> None:
    """Reference §6.3: there the patience never arrived."""
    assert reductions(figures, patience) == expected


def test_the_rate_of_each_epoch_follows_from_the_plateaus_before_it(undisturbed: Path) -> None:
    """Reference §6.3."""
    history = json.loads((undisturbed / "models/last/training.json").read_text())["history"]
    losses = [epoch["val_loss"] for epoch in history]
    expected = [0.01 * 0.5 ** reductions(losses[:i], 1) for i in range(len(history))]
    assert [epoch["learning_rate"] for epoch in history] == pytest.approx(expected)


def test_reductions_agree_with_keras() -> None:

    rng = np.random.default_rng(0)
    figures = list(np.cumsum(rng.normal(-0.01, 0.1, 60)) + 3)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    oracle = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=3, min_lr=0)
    oracle.set_model(model)
    oracle.on_train_begin()
    for epoch, figure in enumerate(figures):
        oracle.on_epoch_end(epoch, {"val_loss": figure})
        expected = 0.5 ** reductions(figures[: epoch + 1], 3)
        assert float(model.optimizer.learning_rate) == pytest.approx(expected)


def test_staleness_counts_epochs_since_the_best() -> None:
    assert stale_epochs([3, 1, 2, 1]) == 2
    assert stale_epochs([float("nan"), 1]) == 0
    assert stale_epochs([]) == 0


@pytest.mark.parametrize(
    ("ruined", "where"),
    [
        (2, "epoch 1, step 2"),
        (6, "epoch 2"),
        pytest.param(3, "epoch 1", marks=pytest.mark.long),
        pytest.param(5, "epoch 2, step 2", marks=pytest.mark.long),
    ],
)
def test_weights_that_are_no_numbers_are_never_saved(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ruined: int, where: str
) -> None:
    """A step can ruin them although its own loss, computed before, was finite."""
    told = settings(dataset, epochs=2, batch_size=2, checkpoint_steps=1)  # three steps an epoch
    true, steps = keras.Model.train_on_batch, []

    def train_and_ruin(self: keras.Model, images: Any, labels: Any) -> None:
        true(self, images, labels)
        steps.append(self)
        if len(steps) == ruined:
            weight = self.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan, np.float32))

    monkeypatch.setattr(keras.Model, "train_on_batch", train_and_ruin)
    with pytest.raises(ModelError, match=f"^{where}: expected finite weights, got nan"):
        train(make_config(told, tmp_path))
    notes = json.loads((tmp_path / "models/last/training.json").read_text())
    assert (len(notes["history"]), notes["step"]) == divmod(ruined - 1, 3)
    assert (tmp_path / "models/best").exists() == (tmp_path / "history.json").exists() == (ruined > 3)
    monkeypatch.setattr(keras.Model, "train_on_batch", true)
    train(make_config(told, tmp_path), resume=True)
    train(make_config(told, tmp_path / "undisturbed"))
    assert_same_run(tmp_path / "undisturbed", tmp_path)


@pytest.mark.parametrize(
    "odd", [float("nan"), float("-inf"), pytest.param(float("inf"), marks=pytest.mark.long)]
)
def test_a_validation_figure_that_is_no_number_does_not_lose_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: float
) -> None:
    """Null in JSON; such an epoch is no better; and what is resumed is the run that never stopped."""
    true = Training._validate

    def validate(self: Training, *told: object) -> dict[str, float]:
        return true(self, *told) | ({"loss": odd} if len(self.history) < 2 else {})

    monkeypatch.setattr(Training, "_validate", validate)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train(make_config(settings(dataset, epochs=3), whole))
    assert result.best_epoch == 3
    with pytest.raises(ModelError, match=r"best: expected a val_loss that is a number, got none in 2 epochs"):
        train(make_config(settings(dataset, epochs=2), parts))
    assert not (parts / "models/best").exists()
    assert json.loads((parts / "history.json").read_text())["val_loss"] == [None, None]
    card = json.loads((parts / "models/last/model.json").read_text())
    assert card["scores"]["validation"]["val_loss"] is None
    train(make_config(settings(dataset, epochs=3), parts), resume=True)
    assert_same_run(whole, parts)


def test_figures_that_are_no_numbers_are_written_and_read_back(tmp_path: Path) -> None:
    epochs = [{"loss": 0.5, "val_loss": float("nan")}, {"loss": 0.4, "val_loss": 0.25}]
    for n in (1, 2):
        CurveFiles(tmp_path, tmp_path / "history.json", ("val_loss",))(EpochEnd(n, epochs[:n], None))
    assert json.loads((tmp_path / "history.json").read_text()) == {
        "loss": [0.5, 0.4],
        "val_loss": [None, 0.25],
    }
    assert (tmp_path / "train_losses.csv").read_text().splitlines()[1:] == [
        "0, 0.5000, nan",
        "1, 0.4000, 0.2500",
    ]
    notes = {"settings": {}, "history": [to_json(figures) for figures in epochs], "step": 0}
    (tmp_path / NOTES_FILE).write_text(json.dumps(notes))
    first, second = read_notes(tmp_path)["history"]
    assert second == epochs[1]
    assert first["loss"] == 0.5
    assert np.isnan(first["val_loss"])
    assert stale_epochs(values([first, second], "val_loss")) == 0


def test_scores_improve_upwards() -> None:
    history = [{"val_foreground_dice": 0.5, "val_loss": 1.0}, {"val_foreground_dice": 0.7, "val_loss": 2.0}]
    assert stale_epochs(values(history, "val_foreground_dice")) == 0
    assert stale_epochs(values(history, "val_loss")) == 1


def test_early_stopping_waits_for_its_patience(dataset: Path, tmp_path: Path) -> None:
    told = settings(dataset, epochs=9, patience=2, learning_rate_reducer=False)
    told["model"]["learning_rate"] = 1e-12
    told["model"]["norm"] = "none"
    config = make_config(told, tmp_path)
    result = train(config)
    assert len(result.history) < 9
    assert result.best_epoch == len(result.history) - 2
    assert result.reason == f"no better {config.train.monitor} for 2 epochs"


def test_an_epochs_figures_are_over_all_its_batches_whatever_their_sizes(dataset: Path) -> None:
    """Not those of the last batch, to which Keras resets its metrics, nor a mean of means."""

    told = settings(dataset)
    told["model"]["loss"] = "categorical_crossentropy"
    config = make_config(told)
    model = build_model(config.model, seed=1)
    names = ["foreground_dice", "dice_coef_multiclass", "pixel_accuracy"]
    model.compile(loss=build_loss(config.model), metrics=build_metrics(config.model, names))
    source = judging_source(config, "train")  # 6 samples: batches of 4 and 2
    apart = judge(model, batches(source, 4, 0))
    whole = judge(model, batches(source, 6, 0))
    images, labels = next(batches(source, 6, 0))
    probs = keras.ops.convert_to_numpy(model(images))
    by_hand = -np.log(np.take_along_axis(probs, labels[..., None].astype(int), -1)).mean()
    assert apart.keys() == {"loss", *names}
    assert apart == pytest.approx(whole, rel=1e-5)
    assert apart["loss"] == pytest.approx(by_hand, rel=1e-4)
    predicted = probs.argmax(-1)
    dice = 2 * ((predicted == 1) & (labels == 1)).sum() / ((predicted == 1).sum() + (labels == 1).sum())
    assert apart["foreground_dice"] == pytest.approx(dice, rel=1e-5)


def test_tensorboard_gets_the_figures_on_request(dataset: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(make_config(settings(dataset, epochs=2, tensorboard=True), tmp_path))
    read = event_accumulator.EventAccumulator(str(tmp_path / "eval/tensorboard"))
    read.Reload()
    losses = [event.value for event in read.Scalars("val_loss")]
    assert losses == pytest.approx([epoch["val_loss"] for epoch in result.history])


def test_the_generators_steps_make_an_epoch(dataset: Path) -> None:

    told = settings(dataset, steps_per_epoch=5)
    assert len(training_source(make_config(told))) == 6
    told["model"]["generator"] = True
    assert len(training_source(make_config(told))) == 20


def test_a_network_trained_in_16_bits_is_saved_in_32_and_judges_alike(dataset: Path, tmp_path: Path) -> None:

    config = make_config(settings(dataset, epochs=2, precision="mixed_bfloat16"), tmp_path)
    result = train(config)
    network = load_model_folder(result.last).model
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    model = keras.Model(network.inputs, network.outputs)
    model.compile(loss=build_loss(config.model))
    figures = judge(model, batches(judging_source(config, "valid"), 4, 0))
    assert figures["loss"] == pytest.approx(result.history[-1]["val_loss"], rel=0.05)


def test_without_validation_images_the_last_epoch_is_the_model(dataset: Path, tmp_path: Path) -> None:
    content = settings(dataset, use="last", epochs=2)
    del content["valid"]
    result = train(make_config(content, tmp_path))
    assert result.best == result.last == tmp_path / "models/last"
    assert not (tmp_path / "models/best").exists()
    assert (tmp_path / "eval/train_losses.csv").read_text().splitlines()[0] == "epoch, loss"
    assert "val_loss" not in json.loads((tmp_path / "history.json").read_text())
    content["train"]["epochs"] = 3
    again = train(make_config(content, tmp_path), resume=True)
    assert len(again.history) == 3


def test_the_best_epoch_cannot_be_had_without_validation_images(dataset: Path, tmp_path: Path) -> None:
    content = settings(dataset)
    del content["valid"]
    with pytest.raises(ConfigError, match="expected validation images"):
        train(make_config(content, tmp_path))
    assert not (tmp_path / "models").exists()
