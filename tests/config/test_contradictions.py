from __future__ import annotations

import pytest

from glomtile.config.load import check_config, make_config

MAP = {(0, 0, 0): 0, (255, 0, 0): 1}


def told(settings) -> dict[str, str]:
    return {f"{f.section}.{f.key}": f.message for f in make_config(settings).findings}


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"model": {"num_classes": 3}, "mask": {"rgb_map": MAP}}, "model.num_classes", "which has 2"),
        ({"mask": {"rgb_map": MAP, "class_names": ["a"]}}, "mask.rgb_map", "expected 2 names"),
        ({"model": {"class_weights": [1, 2, 3]}}, "model.class_weights", "of 2 classes"),
        ({"model": {"num_layers": 8, "image_width": 500}}, "model.image_width", "a multiple of 128"),
        (
            {"model": {"dropout_rate": 0.2, "num_layers": 6}},
            "model.dropout_rate",
            "expected a dropout below 1",
        ),
        (
            {"tiledinfer": {"overlapping": 256, "window": 512}},
            "tiledinfer.overlapping",
            "less than half of window",
        ),
        (
            {"model": {"clipvalue": 0.5, "clipnorm": 1.0}},
            "model.clipnorm",
            "expected one of clipvalue and clipnorm",
        ),
        (
            {"train": {"schedule": "cosine", "learning_rate_reducer": True}},
            "train.learning_rate_reducer",
            "train refuses it",
        ),
        ({"train": {"images_dir": "a"}}, "valid.images_dir", 'add them, or use = "last"'),
        (
            {"model": {"num_classes": 3}, "train": {"images_dir": "a", "use": "last"}},
            "model.num_classes",
            "which is not set and has",
        ),
        ({"train": {"warmup_epochs": 3}}, "train.warmup_epochs", 'no effect with schedule = "constant"'),
        (
            {"model": {"loss": "dice_loss", "class_weights": [1, 5]}},
            "model.class_weights",
            'no effect with loss = "dice_loss"',
        ),
        ({"model": {"loss": "focal", "tversky_beta": 0.9}}, "model.tversky_beta", "no effect with loss"),
        ({"dataset": {"edge_share": 0.3}}, "dataset.edge_share", 'no effect with sampling = "tiles"'),
        ({"dataset": {"foreground_share": 0.3}}, "dataset.foreground_share", "no effect with sampling"),
        ({"dataset": {"samples_per_epoch": 9}}, "dataset.samples_per_epoch", "no effect with sampling"),
        ({"dataset": {"image_weights": {"a*": 2}}}, "dataset.image_weights", "no effect with sampling"),
        (
            {"model": {"normalization": False, "norm": "group"}},
            "model.normalization",
            '"group" takes precedence',
        ),
        ({"model": {"loss": "dice_los"}}, "model.loss", "did you mean dice_loss?"),
        ({"model": {"metrics": ["dice_coef", "dice_ceof"]}}, "model.metrics", "did you mean dice_coef?"),
        (
            {"train": {"metrics": ["dice_coef", "val_dice_ceof"]}},
            "train.metrics",
            "did you mean val_dice_coef?",
        ),
        ({"train": {"monitor": "val_los"}}, "train.monitor", "unknown name val_los; did you mean val_loss?"),
        (
            {"train": {"schedule": "cosine", "warmup_epochs": 10, "epochs": 9}},
            "train.warmup_epochs",
            "expected at most the 9 epochs",
        ),
        (
            {"train": {"images_dir": "a"}, "valid": {"images_dir": "./b/../a"}},
            "valid.images_dir",
            "training images",
        ),
        (
            {"train": {"images_dir": "a", "use": "last"}, "test": {"images_dir": "a"}},
            "test.images_dir",
            "not valid",
        ),
        ({"infer": {"images_dir": "a", "output_dir": "a"}}, "infer.output_dir", "than that of the images"),
        (
            {"train": {"masks_dir": "a", "use": "last"}, "tiledinfer": {"output_dir": "./a"}},
            "tiledinfer.output_dir",
            "than that of [train] masks_dir",
        ),
        (
            {"train": {"monitor": "val_class_dice_7"}},
            "train.monitor",
            "val_class_dice_7: the classes are 0 to 1",
        ),
        (
            {"model": {"metrics": ["class_iou_2"], "num_classes": 2}},
            "model.metrics",
            "the classes are 0 to 1",
        ),
        ({"augmentor": {"tears": 0.4}}, "augmentor.tears", "has no effect: augmentation is off"),
        (
            {"augmentor": {"tears": 0.4, "blur": 1, "stain": 1.0}},
            "augmentor.tears",
            "nor has stain or blur",
        ),
        ({"train": {"model_dir": "."}}, "train.model_dir", "train refuses it"),
        (
            {"train": {"images_dir": "a/eval/images", "use": "last", "eval_dir": "a/eval"}},
            "train.eval_dir",
            "a/eval/images",
        ),
        ({"train": {"metrics": ["DICE_COEF"]}}, "train.metrics", "unknown name DICE_COEF"),
        ({"model": {"model": "FlexUnet"}}, "model.model", "did you mean"),
        ({"model": {"loss": "xyzw"}}, "model.loss", "known are "),
        ({"train": {"monitor": "val_xyz"}}, "train.monitor", "known are val_loss, val_dice_coef_multiclass"),
        ({"mask": {"blur": True}}, "mask.blur", "has no effect"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings, key, message):
    assert message in told(settings)[key]


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"num_classes": 1}, "mask": {"rgb_map": MAP}},
        {"model": {"num_classes": 2}, "mask": {"rgb_map": MAP}},
        {"model": {"num_classes": 3}},
        {"train": {"images_dir": "a", "use": "last"}},
        {"train": {"images_dir": "a"}, "valid": {"images_dir": "b"}},
        {"model": {"class_weights": [1, 2]}},
        {"model": {"num_classes": 1, "class_weights": [1, 2]}},
        {"model": {"metrics": ["class_dice_1", "class_iou_1", "foreground_dice"], "activation": "ReLU"}},
        {"model": {"metrics": ["class_iou_12"], "num_classes": 13}},
        {"augmentor": {"enabled": True, "tears": 0.4}},
        {"augmentor": {"enabled": False, "tears": 0.4}},
        {"augmentor": {"hflip": True, "tears": 0.0}},
        {"train": {"metrics": ["loss", "val_class_dice_1"], "monitor": "val_foreground_dice"}},
        {
            "infer": {"images_dir": "a", "output_dir": "b"},
            "tiledinfer": {"images_dir": "a", "output_dir": "b"},
        },
        {"model": {"clipnorm": 1.0}},
        {"model": {"loss": "tversky", "tversky_beta": 0.9, "label_smoothing": 0}},
        {"train": {"schedule": "cosine", "warmup_epochs": 3}},
        {"model": {"model": "FlexUNet"}},
        {"dataset": {"sampling": "crops", "edge_share": 0.3, "samples_per_epoch": 8}},
        {"dataset": {"sampling": "tiles", "edge_share": 0.0, "samples_per_epoch": "none"}},
    ],
)
def test_settings_that_go_together_are_passed_in_silence(settings):
    assert told(settings) == {}


def test_paths_are_compared_from_the_configs_folder_wherever_it_is_read_from(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = folder / "config.toml"
    file.write_text('[train]\nimages_dir = "a/images"\nuse = "last"\neval_dir = "a"\n')
    assert [str(folder / "a/images") in finding.message for finding in check_config(file)] == [True]
    file.write_text(f'[train]\nmodel_dir = "{folder}"\n')
    assert [finding.key for finding in check_config(file)] == ["model_dir"]
    file.write_text("[train]\nepochs = 2\n")
    assert check_config(file, ["train.model_dir=."]) == []
