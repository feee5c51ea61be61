"""The light runtime answers as Keras does, the same bits each time, and says what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from glomtile.errors import MissingExtraError, ModelError, UsageError
from glomtile.inference import predictor as predictor_module
from glomtile.inference.export import export
from glomtile.inference.predictor import (
    KerasPredictor,
    OpenVinoPredictor,
    PredictionSettings,
    TilePredictor,
    chosen_runtime,
    openvino_forward,
)
from glomtile.inference.segmenter import Segmenter
from glomtile.models import folder as modelfolder
from glomtile.models.folder import bundled_folder, load_model_folder, read_card, write_card

TOLERANCE = 1e-4
"""Of a probability, float32 against float32."""


def pictures(height: int, width: int, count: int = 1, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def both(folder: Path) -> tuple[KerasPredictor, OpenVinoPredictor]:
    loaded = load_model_folder(folder)
    card = loaded.card
    slow = KerasPredictor(loaded.model, loaded.geometry, card.mpp, PredictionSettings.of_card(card))
    return slow, OpenVinoPredictor(folder, card)


@pytest.fixture
def copied(exported_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_model, tmp_path / "copied"))


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (30, 31), (33, 4)])
def test_probabilities_equal_those_of_keras(exported_model: Path, size: tuple[int, int]) -> None:
    slow, fast = both(exported_model)
    batch = pictures(*size, count=3)
    assert fast(batch).dtype == np.float32
    np.testing.assert_allclose(fast(batch), slow(batch), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("card", "settings"),
    [
        ({"color_order": "BGR", "tta": "all"}, {"norm": "batch"}),
        ({"tta": "rotations"}, {"num_classes": 1}),
        ({}, {"upsampling": "bilinear", "residual": True, "norm": "group"}),
    ],
)
def test_turns_channel_order_and_one_output_are_keras_own(
    write_model: Callable[..., Path], card: dict[str, object], settings: dict[str, object]
) -> None:
    folder = write_model(card=card, **settings)
    export(folder)
    slow, fast = both(folder)
    facts = ("num_classes", "stride_px", "context_px", "mpp", "local", "bytes_per_px")
    assert [getattr(fast, name) for name in facts] == [getattr(slow, name) for name in facts]
    batch = pictures(40, 24)
    np.testing.assert_allclose(fast(batch), slow(batch), atol=TOLERANCE)


@pytest.mark.parametrize("streams", [1, 2])
def test_the_same_bits_from_run_to_run(exported_model: Path, streams: int) -> None:
    path, batch = exported_model / "model.onnx", pictures(128, 96, count=5)
    first = openvino_forward(path, streams=streams)[0](batch)
    for _ in range(3):
        again = openvino_forward(path, streams=streams)[0]
        np.testing.assert_array_equal(again(batch), first)


def test_the_number_of_threads_changes_no_bit() -> None:
    """So a worker of one thread and a machine of many give the same masks."""
    folder = bundled_folder()
    assert folder is not None
    batch, card = pictures(384, 384), read_card(folder)
    one = OpenVinoPredictor(folder, card, threads=1)(batch)
    for threads in (2, 3, None):
        np.testing.assert_array_equal(OpenVinoPredictor(folder, card, threads=threads)(batch), one)


def test_threads_that_share_a_predictor_get_the_answers_of_their_own_tiles(exported_model: Path) -> None:
    tiles = [pictures(64, 64, seed=seed) for seed in range(4)]
    for predictor in both(exported_model):
        alone = [predictor(tile) for tile in tiles]
        together = Barrier(len(tiles))

        def answers(
            tile: np.ndarray, ask: TilePredictor = predictor, together: Barrier = together
        ) -> list[np.ndarray]:
            together.wait()
            return [ask(tile) for _ in range(25)]

        with ThreadPoolExecutor(len(tiles)) as pool:
            for got, expected in zip(pool.map(answers, tiles), alone, strict=True):
                np.testing.assert_array_equal(got, [expected] * 25)


def test_an_answer_does_not_depend_on_its_batch(exported_model: Path) -> None:
    _, fast = both(exported_model)
    batch = pictures(64, 64, count=4)
    together = fast(batch)
    for image, probs in zip(batch, together, strict=True):
        np.testing.assert_array_equal(fast(image[None])[0], probs)


def test_arithmetic_is_float32_on_any_processor(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino, compiled = predictor_module.openvino_module(), []

    class Core(openvino.Core):  # type: ignore[misc]
        def compile_model(self, *arguments: object) -> object:
            compiled.append(super().compile_model(*arguments))
            return compiled[-1]

    monkeypatch.setattr(openvino, "Core", Core)
    openvino_forward(exported_model / "model.onnx")
    assert compiled[0].get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_the_exported_file_is_taken_where_there_is_one_else_keras(
    exported_model: Path, write_model: Callable[..., Path]
) -> None:
    light, bare = Segmenter.load(exported_model), Segmenter.load(write_model())
    assert light.identity["runtime"] == "openvino"
    assert bare.identity["runtime"].startswith("keras-")
    assert {light.identity["precision"], bare.identity["precision"]} == {"float32"}
    assert Segmenter.load(exported_model, runtime="keras").identity != light.identity


def test_a_file_beside_the_network_that_computes_decides_nothing(
    exported_model: Path, write_model: Callable[..., Path]
) -> None:
    bare = Segmenter.load(write_model(), runtime="keras")
    assert set(bare.identity["model"]) == {"model.keras"}
    exported = Segmenter.load(exported_model, runtime="keras")
    assert set(exported.identity["model"]) == {"model.keras"}


def test_a_runtime_that_is_missing_unknown_or_has_no_file_is_told(
    exported_model: Path, write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, bare = read_card(exported_model), read_card(write_model())
    with pytest.raises(UsageError, match="auto, openvino, keras, got 'tensorrt'"):
        chosen_runtime(exported, "tensorrt", "m")
    with pytest.raises(ModelError, match="glomtile export"):
        chosen_runtime(bare, "openvino", "m")
    monkeypatch.setattr(predictor_module, "installed_runtimes", lambda: ("openvino",))
    assert chosen_runtime(exported, "auto", "m") == "openvino"
    for card, wanted in ((exported, "keras"), (bare, "auto")):
        with pytest.raises(MissingExtraError, match=r"glomtile\[cpu\]"):
            chosen_runtime(card, wanted, "m")
    monkeypatch.setattr(predictor_module, "installed_runtimes", lambda: ("keras",))
    assert chosen_runtime(exported, "auto", "m") == "keras"
    with pytest.raises(MissingExtraError, match="openvino"):
        chosen_runtime(exported, "openvino", "m")
    monkeypatch.setattr(predictor_module, "installed_runtimes", tuple)
    with pytest.raises(MissingExtraError, match="openvino"):
        chosen_runtime(exported, "auto", "m")


@pytest.mark.parametrize("name", ["model.onnx", "model.keras"])
def test_changed_bytes_of_either_file_are_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        Segmenter.load(copied, runtime="openvino" if name == "model.onnx" else "keras")


def test_a_missing_file_and_no_network_are_refused(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"no network")
    digest = modelfolder.atomic.sha256(copied / "model.onnx")
    card = read_card(copied)
    write_card(copied, card.model_copy(update={"sha256": {**card.sha256, "model.onnx": digest}}))
    with pytest.raises(ModelError, match="OpenVINO can run"):
        Segmenter.load(copied)
    (copied / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"expected model\.onnx beside model\.json"):
        Segmenter.load(copied)


def test_a_file_of_another_class_count_is_refused(copied: Path, write_model: Callable[..., Path]) -> None:
    other = write_model(num_classes=3)
    export(other)
    shutil.copy(other / "model.onnx", copied / "model.onnx")
    card = read_card(copied)
    digests = {**card.sha256, "model.onnx": read_card(other).sha256["model.onnx"]}
    write_card(copied, card.model_copy(update={"sha256": digests}))
    with pytest.raises(ModelError, match="expected 2 probabilities a pixel"):
        Segmenter.load(copied)


def test_without_a_folder_it_is_the_bundled_model_or_a_word(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelfolder, "bundled_folder", lambda: None)
    with pytest.raises(ModelError, match="this install has none"):
        Segmenter.load()
    monkeypatch.setattr(modelfolder, "bundled_folder", lambda: exported_model)
    bundled = Segmenter.load()
    assert bundled.identity["model"] == {"model.onnx": read_card(exported_model).sha256["model.onnx"]}


def test_an_older_folder_says_no_memory_and_windows_are_chosen_all_the_same(copied: Path) -> None:
    told = json.loads((copied / "model.json").read_text("utf-8"))
    measured = told.pop("bytes_per_px")
    del told["card_sha256"]
    (copied / "model.json").write_text(json.dumps(told), "utf-8")
    guessed = OpenVinoPredictor(copied, read_card(copied)).bytes_per_px
    assert 0.5 * measured < guessed < 2 * measured


def test_what_writes_a_model_folder_writes_the_digest_of_its_card(copied: Path) -> None:
    assert modelfolder.bundled_folder() is not None
    for folder in (copied, modelfolder.bundled_folder()):
        assert "card_sha256" in json.loads((folder / "model.json").read_text("utf-8"))
    modelfolder.add_scores(copied, {"test": {"dice": 0.5}})
    text = (copied / "model.json").read_text("utf-8")
    assert read_card(copied).scores == {"test": {"dice": 0.5}}
    (copied / "model.json").write_text(text.replace('"mpp": 2.0', '"mpp": 2.5', 1), "utf-8")
    with pytest.raises(ModelError, match="card_sha256"):
        Segmenter.load(copied)


def test_openvino_reports_to_nobody(exported_model: Path, tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*arguments): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        "from glomtile import Segmenter\n"
        f"Segmenter.load({str(exported_model)!r}, runtime='openvino')\n"
        "assert 'openvino' in sys.modules\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
