"""Every format answers as the trained network does, or nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from tests.fakes import tree

from glomtile.config.model_card import ModelCard
from glomtile.config.schema import ModelSettings
from glomtile.errors import InputError, ModelError, UsageError
from glomtile.inference import export as exporting
from glomtile.inference.export import export, keras_forward, saved_model_forward
from glomtile.inference.predictor import openvino_forward
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.models import folder as modelfolder
from glomtile.models.folder import load_model_folder, read_card, save_model_folder
from glomtile.networks.losses import build_loss
from glomtile.networks.registry import build_model, geometry
from glomtile.palette import GLOMERULI
from glomtile.synthetic import paint

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModel is TensorFlow's own format"
)


def noise(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture
def model(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(write_model(norm="batch"), tmp_path / "model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "calibration").mkdir()
    for seed in range(3):
        write_png(tmp_path / "calibration" / f"{seed}.png", paint(seed, (150, 130), 2.0).image, 2.0)
    return tmp_path / "calibration"


def test_onnx_goes_into_the_model_folder_and_is_run_from_then_on(model: Path) -> None:
    before = Segmenter.load(model).identity
    result = export(model)
    assert result.path == model / "model.onnx"
    assert result.parity.largest <= 1e-4
    assert len(set(result.parity.sizes_px)) == 3
    card = read_card(model)
    assert set(card.sha256) == {"model.keras", "model.onnx"}
    assert card.runtime is not None
    assert card.runtime.precision == "float32"
    assert Segmenter.load(model).identity != before
    export(model, precision="float16")
    assert read_card(model).runtime.precision == "float16"
    assert Segmenter.load(model).identity["precision"] == "float16"


def test_training_on_replaces_the_folder_and_the_export_is_gone(model: Path) -> None:
    export(model)
    loaded = load_model_folder(model)
    save_model_folder(model, loaded.model, loaded.card)
    assert not (model / "model.onnx").exists()
    assert read_card(model).runtime is None


def test_the_same_network_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export(model, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert read_card(model).runtime is None


def test_onnx_is_plain_and_of_free_size(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    (given,), (told,) = graph.input, graph.output
    assert (given.name, told.name) == ("image", "probs")
    for value, channels in ((given, 3), (told, 2)):
        *free, last = value.type.tensor_type.shape.dim
        assert [side.dim_param for side in free] == ["batch", "height", "width"]
        assert last.dim_value == channels


@needs_tensorflow
def test_saved_model_has_one_plain_signature_for_every_size(model: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    result = export(model, tmp_path / "saved", fmt="saved-model")
    assert result.path == tmp_path / "saved"
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    serve = loaded.signatures["serving_default"]
    (given,) = serve.structured_input_signature[1].values()
    assert given.dtype == tf.float32
    assert given.shape.as_list() == [None, None, None, 3]
    assert len(serve.structured_outputs) == 1
    network = load_model_folder(model).model
    batch = noise(20, 36, count=2)
    expected = keras_forward(network)(batch)
    np.testing.assert_allclose(saved_model_forward(result.path)(batch), expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_openvinos_own_files(model: Path, tmp_path: Path, precision: str) -> None:
    result = export(model, tmp_path / "ir", fmt="openvino", precision=precision)
    assert sorted(p.name for p in result.path.iterdir()) == ["model.bin", "model.xml"]
    expected = keras_forward(load_model_folder(model).model)(noise(36, 20))
    answer = openvino_forward(result.path / "model.xml")[0](noise(36, 20))
    np.testing.assert_allclose(answer, expected, atol=1e-4 if precision == "float32" else 0.02)


def test_float16_halves_the_files_and_both_runtimes_agree_on_a_bundle(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = write_model(base_filters=16, norm="batch")
    trained = load_model_folder(model)
    result = export(model, tmp_path / "bundle", fmt="bundle")
    card = read_card(result.path)
    assert {p.name for p in result.path.iterdir()} == {"model.keras", "model.onnx", "model.json"}
    assert card.runtime is not None
    assert card.runtime.precision == "float16"
    assert card.versions == trained.card.versions
    assert result.bytes == sum(p.stat().st_size for p in result.path.iterdir())
    assert (result.path / "model.keras").stat().st_size < 0.6 * (model / "model.keras").stat().st_size
    rounded = load_model_folder(result.path).model
    for ours, theirs in zip(rounded.get_weights(), trained.model.get_weights(), strict=True):
        assert ours.dtype == np.float32
        exact = theirs.astype(np.float16).astype(np.float32) if theirs.ndim > 1 else theirs
        np.testing.assert_array_equal(ours, exact)
    answers = [
        Segmenter.load(result.path, runtime=name)._predictor(noise(36, 20)) for name in ("openvino", "keras")
    ]
    np.testing.assert_allclose(*answers, atol=1e-4)
    assert np.abs(answers[0] - keras_forward(trained.model)(noise(36, 20))).max() < 0.02


def test_a_bundle_too_large_to_ship_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BUNDLE_BYTES", 10_000)
    with pytest.raises(ModelError, match="expected at most 10,000 bytes"):
        export(model, tmp_path / "bundle", fmt="bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that knows painted glomeruli a little, so that rounding has something to spoil."""
    settings = ModelSettings(
        model="FlexUNet", base_filters=8, num_layers=4, base_kernels=(3, 3), norm="batch", dropout_rate=0.0,
        num_classes=2, mpp=4.0, loss="dice_crossentropy",
    )  # fmt: skip
    model = build_model(settings, seed=1)
    training = keras.Model(model.inputs, model.outputs)
    training.compile(keras.optimizers.Adam(0.005), build_loss(settings))
    painted = [paint(seed, (128, 128), 4.0) for seed in range(8)]
    pictures, labels = (np.stack([getattr(p, name) for p in painted]) for name in ("image", "labels"))
    keras.utils.set_random_seed(1)
    training.fit(pictures, labels, batch_size=4, epochs=30, verbose=0)
    seen = geometry(settings)
    card = ModelCard(
        network=settings, classes=ModelCard.classes_of(GLOMERULI), mpp=4.0, tile_px=(128, 128),
        stride_px=seen.stride_px, context_px=seen.context_px,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("trained") / "last"
    save_model_folder(folder, model, card)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("int8_products")
def test_int8_costs_next_to_no_dice(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(100, 108):
        write_png(tmp_path / "images" / f"{seed}.png", paint(seed, (128, 128), 4.0).image, 4.0)
    result = export(trained, tmp_path / "int8.onnx", precision="int8", calibration=tmp_path / "images")
    operators = {node.op_type for node in onnx.load(result.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    exact, rounded = (
        keras_forward(load_model_folder(trained).model),
        openvino_forward(result.path)[0],
    )
    truth, dice = [], {"exact": [], "rounded": []}
    for seed in range(200, 212):
        painted = paint(seed, (256, 256), 4.0)
        truth.append(painted.labels == 1)
        for name, forward in (("exact", exact), ("rounded", rounded)):
            dice[name].append(forward(painted.image[None])[0, ..., 1] > 0.5)
    figures = {name: _dice(np.stack(masks), np.stack(truth)) for name, masks in dice.items()}
    assert figures["exact"] > 0.6
    assert figures["exact"] - figures["rounded"] <= 0.002


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_int8_goes_into_the_folder_too(trained: Path, tmp_path: Path) -> None:
    model = shutil.copytree(trained, tmp_path / "copied")
    (tmp_path / "images").mkdir()
    for seed in range(100, 104):
        write_png(tmp_path / "images" / f"{seed}.png", paint(seed, (256, 256), 4.0).image)
    export(model, precision="int8", calibration=tmp_path / "images", mpp=4.0)
    told = read_card(model).runtime
    assert told is not None
    assert (told.precision, told.calibration_images > 0) == ("int8", True)
    assert Segmenter.load(model).identity["precision"] == "int8"


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"fmt": "tensorrt"}, UsageError, "onnx, openvino, saved-model, bundle, got 'tensorrt'"),
        ({"precision": "int4"}, UsageError, "float32, float16, int8 for onnx, got 'int4'"),
        ({"precision": "int8"}, UsageError, "expected a folder of images for int8"),
        (
            {"fmt": "saved-model", "precision": "float16"},
            UsageError,
            "expected one of float32 for saved-model",
        ),
        ({"fmt": "bundle"}, UsageError, "expected a place to write bundle to"),
        ({"out": "model"}, UsageError, "expected a new name"),
        ({"precision": "int8", "calibration": "nowhere"}, InputError, "nowhere"),
        ({"calibration": "images"}, UsageError, "--calibration: expected --precision int8 .*, got float32"),
        ({"fmt": "bundle", "out": "new", "calibration": "images"}, UsageError, "int8 .*, got float16"),
        ({"mpp": 0.5}, UsageError, r"--mpp: expected calibration images of this scale, got 0\.5"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(
    model: Path, tmp_path: Path, asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    export(model)
    before = tree(tmp_path)
    paths = {key: tmp_path / asked[key] for key in ("out", "calibration") if key in asked}
    with pytest.raises(error, match=words):
        export(model, **{**asked, **paths})  # type: ignore[arg-type]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_answers_differently_is_not_kept(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    export(model)
    before = tree(tmp_path)
    other = build_model(read_card(model).network, seed=99)
    write = exporting.write_onnx
    monkeypatch.setattr(exporting, "write_onnx", lambda _, path, **more: write(other, path, **more))
    with pytest.raises(ModelError, match="expected the probabilities of the trained network"):
        export(model, precision=precision, calibration=images if precision == "int8" else None)
    assert tree(tmp_path) == before


def test_a_damaged_model_is_not_exported(model: Path) -> None:
    with (model / "model.keras").open("ab") as stream:
        stream.write(b"x")
    before = tree(model)
    with pytest.raises(ModelError, match="SHA-256"):
        export(model)
    assert tree(model) == before


def test_a_kill_between_the_two_files_leaves_a_model_without_runtime(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model)
    write = modelfolder.write_card

    def killed(folder: Path, card: ModelCard) -> None:
        if card.runtime is not None:
            raise KeyboardInterrupt
        write(folder, card)

    monkeypatch.setattr(modelfolder, "write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        export(model, precision="float16")
    assert Segmenter.load(model).identity["runtime"].startswith("keras-")
