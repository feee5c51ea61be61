"""Every key the reference system reads is accepted where it reads it, and so are its older family's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from glomtile.config.load import check_config, load_config
from glomtile.config.schema import Config

REFERENCE_TEXT = """
[augmentor]
angles=[45, 90] | barrdistortion=True | brightening=True | deformation=True | distortion=True
hflip=False | pincdistortion=True | rotation=False | sharpening=True | shears=[0.1] | shrinks=[0.6, 0.8]
vflip=False
[barrdistortion]
amount=0.3 | centers=[(0.3, 0.3), (0.7, 0.7)] | radius=0.3
[brightening]
alpha=1.3 | beta=5
[dataset]
class_name="ImageCategorizedMaskDataset"
[debug]
verbose=True
[deformation]
alpah=1200 | sigmoid=7.5 | sigmoids=[7.0, 9]
[distortion]
distortions=[0.02, 0.03] | gaussian_filter_rsigma=30 | gaussian_filter_sigma=0.4
[eval]
batch_size=2 | eval_dir="./curves" | image_datapath="./valid/images" | mask_datapath="./valid/masks"
[generator]
augmentation=False | debug=False | generated_images_dir="./generated_images"
generated_masks_dir="./generated_masks" | verbose=True
[image]
color_order="BGR"
[infer]
images_dir="./mini_test/images" | output_dir="./out"
[mask]
binarize=False | blur=True | mask_datatype="indexed" | mask_file_format=".npz"
rgb_map={(0,0,0):0,(0,0,255):1,} | threshold=60
[model]
activation="mish" | backbone="ResNet50" | base_filters=32 | base_kernels=(7,7) | base_ksize=(5,5)
batch_norm=True | clipvalue=0.3 | color_order="BGR" | depth=5 | dilation=(2,2) | dropout_rate=0.04
dropout_seed_fixing=True | efficientnet="B4" | embed_dim=384 | filter_num=[32, 64] | filter_num_begin=64
filters=[16, 32] | final_activation="softmax" | freeze_backbone=False | freeze_batch_norm=False
generator=True | image_channels=1 | image_height=256 | image_width=384 | input_normalize=False
learning_rate=0.0002 | loss="bce_dice_loss" | max_filter=256 | metrics=["dice_coef"]
mlp_activation="ReLU" | model="TensorFlowFlexUNet" | normalization=True | num_classes=3 | num_heads=12
num_layers=7 | num_mlp=3072 | num_transformer=6 | optimizer="AdamW" | patch_size=(2,2) | pool="max"
shift_window=True | stack_num_down=3 | stack_num_up=3 | weights=None | window_size=[4, 2]
[pincdistortion]
amount=-0.3 | centers=[(0.3, 0.3)] | radius=0.3
[sharpening]
k=1.5
[test]
images_dir="./test/images" | masks_dir="./test/masks"
[tiledinfer]
images_dir="./mini_test/images" | output_dir="./out_tiled" | overlapping=32 | split_size=256
[train]
batch_size=8 | epoch_change_infer=False | epoch_change_infer_dir="./previews"
epoch_change_tiled_infer=True | epoch_change_tiled_infer_dir="./tiled_previews" | epochs=7
eval_dir="./curves" | image_datapath="./train/images" | images_dir="./train/images"
learning_rate_reducer=True | mask_datapath="./train/masks" | masks_dir="./train/masks"
metrics=["dice_coef", "val_dice_coef"] | model_dir="./trained" | num_infer_images=3 | patience=-1
reducer_factor=0.5 | reducer_patience=5 | steps_per_epoch=100 | validation_steps=200
[valid]
images_dir="./valid/images" | masks_dir="./valid/masks"
"""
REFERENCE_KEYS: dict[str, dict[str, str]] = {}
for _line in REFERENCE_TEXT.strip().splitlines():
    if _line.startswith("["):
        _keys = REFERENCE_KEYS.setdefault(_line.strip("[]"), {})
    else:
        _keys |= dict(item.split("=", 1) for item in _line.split(" | "))

WRITTEN_BUT_NEVER_READ = {
    "model": {"show_summary": "True"},
    "train": {"create_backup": "True", "save_weights_only": "True"},
}

WITHOUT_EFFECT = {
    "dataset": {"class_name": '"ImageCategorizedMaskDataset"'},
    "debug": {"verbose": "True"},
    "train": {"create_backup": "False", "save_weights_only": "True", "validation_steps": "800"},
}

ELSEWHERE = {
    ("deformation", "alpah"): ("deformation", "alpha"),
    ("eval", "eval_dir"): ("train", "eval_dir"),
    ("eval", "image_datapath"): ("valid", "images_dir"),
    ("eval", "mask_datapath"): ("valid", "masks_dir"),
    ("model", "color_order"): ("image", "color_order"),
    ("train", "image_datapath"): ("train", "images_dir"),
    ("train", "mask_datapath"): ("train", "masks_dir"),
    ("test", "image_datapath"): ("test", "images_dir"),
    ("test", "mask_datapath"): ("test", "masks_dir"),
    ("train", "epoch_change_tiledinfer"): ("train", "epoch_change_tiled_infer"),
    ("train", "epoch_change_tiledinfer_dir"): ("train", "epoch_change_tiled_infer_dir"),
    ("train", "poch_change_infer"): ("train", "epoch_change_infer"),
    ("model", "epoch_change_infer"): ("train", "epoch_change_infer"),
    ("model", "epoch_change_infer_dir"): ("train", "epoch_change_infer_dir"),
    ("model", "num_infer_images"): ("train", "num_infer_images"),
}
"""Keys that count under another section or name."""

OTHER_FAMILIES = {
    ("model", "epoch_change_infer"): "False",
    ("model", "epoch_change_infer_dir"): '"./previews"',
    ("model", "num_infer_images"): "3",
    ("train", "poch_change_infer"): "False",
    ("train", "epoch_change_tiledinfer"): "True",
    ("train", "epoch_change_tiledinfer_dir"): '"./previews"',
    ("test", "image_datapath"): '"./test/images"',
    ("test", "mask_datapath"): '"./test/masks"',
    ("segmentation", "colorize"): "True",
    ("segmentation", "black"): '"black"',
    ("segmentation", "white"): '"green"',
    ("segmentation", "blursize"): "(3,3)",
    ("image", "color_converter"): '"cv2.COLOR_BGR2HSV_FULL"',
    ("image", "gamma"): "0",
    ("mask", "blur_size"): "(3,3)",
    ("model", "loss"): '"bce_iou_loss"',
    ("model", "metrics"): '["binary_accuracy"]',
    ("model", "num_classes"): "1",
}
"""Keys of other configs of the same author."""

OTHER_NETWORKS_KEYS = {
    "backbone", "base_ksize", "batch_norm", "depth", "efficientnet", "embed_dim", "filter_num",
    "filter_num_begin", "filters", "freeze_backbone", "freeze_batch_norm", "max_filter", "mlp_activation",
    "num_heads", "num_mlp", "num_transformer", "patch_size", "pool", "shift_window", "stack_num_down",
    "stack_num_up", "weights", "window_size",
}  # fmt: skip

ALL = [
    (section, key, text)
    for table in (REFERENCE_KEYS, WRITTEN_BUT_NEVER_READ)
    for section, keys in table.items()
    for key, text in keys.items()
]


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "x.config"
    path.write_text(text, "utf-8")
    return load_config(path)


def plain(value: object) -> object:
    """Lists as tuples and paths as text, so that a setting equals the literal it came from."""
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def arrived(config: Config, section: str, key: str, text: str) -> bool:
    section, key = ELSEWHERE.get((section, key), (section, key))
    settings, wanted = config.section(section), plain(ast.literal_eval(text))
    value = getattr(settings, key)
    return settings.is_set(key) and (
        value == Path(str(wanted)) if isinstance(value, Path) else value == wanted
    )


@pytest.mark.parametrize(("section", "key", "text"), ALL)
def test_a_key_of_the_reference_is_accepted_in_its_section(tmp_path, section, key, text):
    config = load(tmp_path, f"[{section}]\n{key} = {text}\n")
    assert arrived(config, section, key, text)


def test_all_keys_of_the_reference_can_be_in_one_file(tmp_path):
    lines = []
    for section, keys in REFERENCE_KEYS.items():
        lines += [f"[{section}]", *(f"{key}={text}" for key, text in keys.items())]
    config = load(tmp_path, "\n".join(lines))
    for section, keys in REFERENCE_KEYS.items():
        for key, text in keys.items():
            assert arrived(config, section, key, text), (section, key)


@pytest.mark.parametrize(("place", "text"), OTHER_FAMILIES.items())
def test_a_key_of_the_authors_other_configs_is_accepted(tmp_path, place, text):
    config = load(tmp_path, f"[{place[0]}]\n{place[1]} = {text}\n")
    assert arrived(config, *place, text)


@pytest.mark.parametrize("place", list(ELSEWHERE))
def test_a_key_of_another_section_is_a_warning_with_its_line(tmp_path, place):
    text = OTHER_FAMILIES.get(place) or REFERENCE_KEYS[place[0]][place[1]]
    config = load(tmp_path, f"; one line\n[{place[0]}]\n{place[1]} = {text}\n")
    found = [finding for finding in config.findings if (finding.section, finding.key) == place]
    section, key = ELSEWHERE[place]
    assert [finding.line for finding in found] == [3]
    assert f"[{section}] {key}" in found[0].message


@pytest.mark.parametrize(
    ("section", "key", "text"),
    [(section, key, text) for section, keys in WITHOUT_EFFECT.items() for key, text in keys.items()],
)
def test_a_key_without_effect_is_a_warning(tmp_path, section, key, text):
    (finding,) = load(tmp_path, f"[{section}]\n{key} = {text}\n").findings
    assert (finding.severity, finding.line, finding.key) == ("warning", 2, key)
    assert finding.message.startswith("has no effect: ")


@pytest.mark.parametrize("key", sorted(OTHER_NETWORKS_KEYS))
def test_a_key_of_another_network_is_a_warning(tmp_path, key):
    text = f"[model]\n{key} = {REFERENCE_KEYS['model'][key]}\n"
    (finding,) = load(tmp_path, text).findings
    assert finding.severity == "warning"
    assert "FlexUNet does not read it" in finding.message


@pytest.mark.parametrize("key", sorted(set(REFERENCE_KEYS["model"]) - OTHER_NETWORKS_KEYS - {"color_order"}))
def test_a_key_of_our_network_is_not_one_of_anothers(tmp_path, key):
    findings = load(tmp_path, f"[model]\n{key} = {REFERENCE_KEYS['model'][key]}\n").findings
    assert not any("does not read it" in finding.message for finding in findings)


def test_a_network_that_is_not_implemented_is_a_warning_and_keeps_its_keys(tmp_path):
    path = tmp_path / "swin.config"
    path.write_text('[model]\nmodel = "TensorFlowSwinUNet"\nshift_window = True\npool = True\n')
    found = {finding.key: finding.message for finding in check_config(path)}
    assert "not implemented" in found["model"]
    assert "shift_window" not in found
    assert "a key of TransUNet; SwinUNet does not read it" in found["pool"]


def test_a_three_dimensional_section_is_recognised_and_left_out(tmp_path):
    config = load(tmp_path, '[infer3d]\nimages_dir = "./a"\nwhatever = 1\n')
    (finding,) = config.findings
    assert "3-D segmentation is not supported" in finding.message
    assert not config.infer.is_set("images_dir")
