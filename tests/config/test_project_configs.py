"""The configs in projects/ load without changes."""

from __future__ import annotations

import pytest

from glomtile.config.load import check_config, load_config

FOLDER = "projects/flexunet/glomeruli"


def test_our_config_of_the_project_has_no_finding(root):
    assert check_config(root / FOLDER / "glomeruli.toml") == []


def test_the_config_of_the_reference_has_findings_for_keys_without_effect(root):
    findings = check_config(root / FOLDER / "train_eval_infer.config")
    assert {finding.key for finding in findings} == {"class_name", "create_backup", "save_weights_only"}
    assert all(finding.severity == "warning" for finding in findings)
    assert all(finding.message.startswith("has no effect: ") for finding in findings)


@pytest.mark.parametrize("name", ["train_eval_infer.config", "glomeruli.toml"])
def test_a_config_of_the_project_reads_the_dataset_that_prepare_makes(root, name):
    config = load_config(root / FOLDER / name)
    for split in ("train", "valid", "test"):
        for kind in ("images", "masks"):
            wanted = root.resolve() / "dataset" / "Glomeruli" / split / kind
            assert config.folder(split, f"{kind}_dir") == wanted
    assert config.folder("tiledinfer", "images_dir") == root.resolve() / FOLDER / "mini_test" / "images"
    assert config.palette().to_rgb_map() == {(0, 0, 0): 0, (255, 0, 0): 1}


def test_the_config_of_the_reference_has_its_settings(root):
    config = load_config(root / FOLDER / "train_eval_infer.config")
    model, train = config.model, config.train
    assert (model.base_filters, model.base_kernels, model.num_layers) == (16, (11, 11), 8)
    assert (model.image_width, model.image_height, model.image_channels) == (512, 512, 3)
    assert (model.dropout_rate, model.dilation, model.norm) == (0.05, (1, 1), "none")
    assert (model.optimizer, model.learning_rate, model.clipvalue) == ("Adam", 0.00007, 0.5)
    assert (model.loss, model.metrics) == ("categorical_crossentropy", ("dice_coef_multiclass",))
    assert (train.epochs, train.batch_size, train.patience) == (100, 2, 10)
    assert (train.learning_rate_reducer, train.reducer_factor, train.reducer_patience) == (True, 0.5, 4)
    assert (train.epoch_change_infer, train.epoch_change_tiled_infer) == (False, True)
    assert (config.tiledinfer.overlapping, config.tiledinfer.split_size) == (64, 512)
    assert config.image.color_order == "RGB"
    assert not config.augments


def test_the_two_configs_of_the_project_keep_out_of_each_others_folders(root):
    reference = load_config(root / FOLDER / "train_eval_infer.config")
    ours = load_config(root / FOLDER / "glomeruli.toml")
    outputs = [
        ("train", "model_dir"),
        ("train", "eval_dir"),
        ("train", "epoch_change_tiled_infer_dir"),
        ("infer", "output_dir"),
        ("tiledinfer", "output_dir"),
    ]
    for place in outputs:
        assert reference.folder(*place) != ours.folder(*place)
