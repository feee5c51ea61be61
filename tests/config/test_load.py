from __future__ import annotations

from pathlib import Path

import pytest

from glomtile.config.load import check_config, load_config, make_config
from glomtile.errors import ConfigError


def write(folder: Path, text: str, name: str = "x.config") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_the_error_has_file_line_section_key_value_expected_and_received(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "; \n" * 29 + '[train]\nepochs = "ten"\n', "glomeruli.config")
    with pytest.raises(ConfigError) as caught:
        load_config("glomeruli.config")
    assert (
        str(caught.value) == 'glomeruli.config:31 [train] epochs = "ten": '
        "expected a whole number ≥ 1, got the text 'ten'"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("train", "epochs = 0", "expected a whole number ≥ 1, got 0"),
        ("train", "epochs = 2.5", "expected a whole number ≥ 1, got 2.5"),
        ("train", "epochs = True", "expected a whole number ≥ 1, got True"),
        ("train", "epochs = None", "expected a whole number ≥ 1, got nothing (None)"),
        ("train", "learning_rate_reducer = 1", "expected True or False, got 1"),
        ("train", 'schedule = "linear"', 'expected "constant" or "cosine", got the text \'linear\''),
        ("train", "images_dir = 3", "expected a path as text or None, got 3"),
        ("train", 'images_dir = ""', "expected a path as text or None, got the text ''"),
        ("train", 'metrics = "dice_coef"', "expected a list of texts, got the text 'dice_coef'"),
        ("model", "learning_rate = 0", "expected a number > 0 and ≤ 10, got 0"),
        ("model", "learning_rate = 1e999", "expected a number > 0 and ≤ 10, got inf"),
        ("model", "dropout_rate = 1.0", "expected a number ≥ 0 and < 1, got 1.0"),
        ("model", "base_kernels = 3", "expected a pair of whole numbers ≥ 1, got 3"),
        ("model", "base_kernels = (3, 0)", "expected a pair of whole numbers ≥ 1, got (3, 0)"),
        ("model", "base_kernels = (3, 3, 3)", "expected a pair of whole numbers ≥ 1, got (3, 3, 3)"),
        ("model", "mpp = 30", "expected a number from 0.05 to 20 or None, got 30"),
        ("model", "num_classes = 255", "expected a whole number from 1 to 254, got 255"),
        ("image", 'color_order = "GBR"', 'expected "RGB" or "BGR", got the text \'GBR\''),
        ("augmentor", "scales = [1.2, 0.8]", "expected a pair of numbers > 0, the lower first, or None"),
        ("augmentor", "jpeg = [0, 90]", "expected a pair of whole numbers from 1 to 100, the lower first"),
        ("barrdistortion", "centers = [(2, 0.5)]", "expected a list of pairs (x, y), each from 0 to 1"),
        ("pincdistortion", "amount = 0.5", "expected a number < 0, got 0.5"),
        ("mask", "rgb_map = {(0,0,300):0}", "expected a map of (r, g, b), each 0 to 255"),
        ("mask", "rgb_map = {(0,0):0}", "expected a map of (r, g, b), each 0 to 255"),
        ("mask", "rgb_map = [0, 1]", "expected a map of (r, g, b), each 0 to 255"),
        ("tiledinfer", 'window = "largest"', 'expected "auto", a whole number ≥ 1 or None'),
        ("train", f"seed = {'9' * 40}", "expected a whole number from 0 to 4294967295, got 9999"),
        ("train", f"epochs = {'9' * 40}", "too large a number"),
        ("model", "metrics = []", "metrics = []: expected a list of one name or more, got []"),
    ],
)
def test_a_wrong_type_or_range_is_described(tmp_path, section, line, expected):
    path = write(tmp_path, f"[{section}]\n{line}\n")
    errors = [finding for finding in check_config(path) if finding.severity == "error"]
    assert len(errors) == 1
    assert errors[0].line == 2
    assert expected in str(errors[0])
    with pytest.raises(ConfigError):
        load_config(path)


def test_a_colour_of_thousands_of_digits_is_refused_beside_the_other_errors(tmp_path):
    text = '[mask]\nrgb_map = {{"0,0,0" = 0, "{},0,0" = 1}}\ntolerance = 300\nmask_datatype = "indexed"\n'
    found = check_config(write(tmp_path, text.format("9" * 5000), "x.toml"))
    assert [(one.severity, one.line, one.key) for one in found] == [
        ("error", 2, "rgb_map"),
        ("error", 3, "tolerance"),
    ]
    assert "expected a map of (r, g, b)" in found[0].message


def test_all_errors_are_listed_in_the_order_of_the_lines(tmp_path):
    path = write(tmp_path, '[model]\nnum_layers = 0\n[train]\npatience = f()\nepochs = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert [line.split()[0].rsplit(":", 1)[1] for line in lines] == ["2", "4", "5"]


def test_warnings_let_the_config_pass_and_stay_with_it(tmp_path):
    path = write(tmp_path, "[train]\nepochs = 2\nepochs = 3\nepoch = 4\n[modl]\nx = 1\n")
    config = load_config(path)
    assert config.train.epochs == 3
    assert [finding.line for finding in config.findings] == [3, 4, 6]
    assert {finding.severity for finding in config.findings} == {"warning"}
    assert list(config.findings) == check_config(path)


def test_a_trailing_comma_after_one_value_is_ignored(tmp_path):
    config = load_config(write(tmp_path, "[train]\nepochs = 3,\n[augmentor]\nangles = 90,\nenabled = True\n"))
    assert config.train.epochs == 3
    assert config.augmentor.angles == (90,)
    assert [finding.line for finding in config.findings] == [2]


def test_a_whole_number_is_a_number(tmp_path):
    config = load_config(write(tmp_path, "[brightening]\nalpha = 1\n"))
    assert config.brightening.alpha == 1.0
    assert isinstance(config.brightening.alpha, float)


def test_the_suffix_decides_between_the_formats_and_else_the_content(tmp_path):
    ini, toml = "[train]\nepochs = 3,\ntensorboard = True\n", "[train]\nepochs = 3\ntensorboard = true\n"
    for name, text in (("a.config", ini), ("a.ini", ini), ("a.toml", toml), ("a.txt", ini), ("b", toml)):
        config = load_config(write(tmp_path, text, name))
        assert config.train.epochs == 3
        assert config.train.tensorboard is True


def test_paths_are_relative_to_the_configs_folder(tmp_path, monkeypatch):
    path = write(tmp_path, '[train]\nimages_dir = "../../data/images/"\n', "a/b/x.config")
    monkeypatch.chdir(tmp_path / "a")
    for name in (path, Path("b/x.config")):
        config = load_config(name)
        assert config.base_dir == (tmp_path / "a" / "b").resolve()
        assert config.folder("train", "images_dir") == tmp_path.resolve() / "data" / "images"
        assert config.resolve(config.train.model_dir) == (tmp_path / "a" / "b" / "models").resolve()
    assert config.resolve("/elsewhere/x") == Path("/elsewhere/x")


@pytest.mark.parametrize("key", ["train.images_dir", "train.image_datapath", "train.model_dir"])
def test_a_windows_path_in_quotes_is_that_path(tmp_path, key):
    section, name = key.split(".")
    for path in (r"C:\Users\me\images", r"C:\new\train", "D:\\data\\xray\\images\\"):
        config = load_config(write(tmp_path, f'[{section}]\n{name} = "{path}" ; mine\nepochs = 3\n'))
        read = config.train.model_dir if name == "model_dir" else config.train.images_dir
        assert read == Path(path.replace("\\", "/"))
        assert config.train.epochs == 3
        assert not [found for found in config.findings if "backslash" in found.message]
        ordered = load_config(write(tmp_path, ""), [f'train.images_dir="{path}"']).train.images_dir
        assert ordered == Path.cwd() / path.replace("\\", "/")


def test_a_backslash_outside_a_path_is_a_finding(tmp_path):
    for name, text in (("a.config", r'"C:\new"'), ("a.toml", r'"C:\new"')):
        (found,) = check_config(write(tmp_path, f"[dataset]\nname = {text}\n", name))
        assert (found.severity, found.line) == ("warning", 2)
        assert "control character '\\n'" in found.message
    (found,) = check_config(write(tmp_path, '[dataset]\nname = "C:\\Users"\n', "b.config"))
    assert found.severity == "error"
    assert "write / or double the backslash" in found.message
    found = check_config(write(tmp_path, '[train]\nimages_dir = "C:\\new"\n', "b.toml"))
    assert [one.line for one in found if "control character '\\n'" in one.message] == [2]


def test_an_override_takes_precedence_over_the_file(tmp_path):
    path = write(tmp_path, '[train]\nepochs = 100\n[model]\nmetrics = ["dice_coef"]\n')
    config = load_config(
        path,
        [
            "train.epochs=2",
            "model.optimizer=AdamW",
            'model.loss="focal"',
            "augmentor.scales=[0.8, 1.25]",
            "augmentor.enabled=true",
            "model.mpp=2",
            "mask.rgb_map={(0,0,0):0,(255,0,0):1}",
        ],
    )
    assert (config.train.epochs, config.model.optimizer, config.model.loss) == (2, "AdamW", "focal")
    assert config.augmentor.scales == (0.8, 1.25)
    assert config.augments
    assert config.model.mpp == 2.0
    assert config.palette().num_classes == 2
    assert config.model.metrics == ("dice_coef",)
    assert config.findings == ()


def test_a_path_of_an_override_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    path = write(tmp_path, '[train]\nimages_dir = "x"\n', "a/x.config")
    monkeypatch.chdir(tmp_path)
    names = ["my (1) images", "2024", "../up", '"quoted"', "plain"]
    read = [load_config(path, [f"train.images_dir={name}"]).folder("train", "images_dir") for name in names]
    here = tmp_path.resolve()
    assert read == [
        here / "my (1) images",
        here / "2024",
        here.parent / "up",
        here / "quoted",
        here / "plain",
    ]
    assert load_config(path, ["train.images_dir=none"]).train.images_dir is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epoch=3", "unknown key, refused; did you mean epochs?"),
        ("trian.epochs=3", "--set [trian]: unknown section, refused; did you mean [train]?"),
        ("a.epochs=3", "--set [a]: unknown section, refused; did you mean epochs of [train]?"),
        ("a.b=1", "--set [a]: unknown section, refused"),
        ("model.masks_dir=x", "it is one of [train], [valid], [test]"),
        ("train.epochs", "expected section.key=value, got the text 'train.epochs'"),
        ("epochs=3", "expected section.key=value, got the text 'epochs=3'"),
        ("", "expected section.key=value"),
        ("train.epochs=ten", "--set [train] epochs = ten: expected a whole number ≥ 1, got the text 'ten'"),
        ("train.epochs=", "expected a value, got nothing"),
        ("train.images_dir=", "expected a value, got nothing"),
        ("train.epochs=int(3)", "expected a plain value, got code"),
        ("infer3d.x=1", "3-D segmentation is not supported; the section is refused"),
    ],
)
def test_an_override_that_is_no_setting_is_refused(tmp_path, override, expected):
    path = write(tmp_path, "[train]\nepochs = 100\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_override_mends_a_wrong_value_of_the_file(tmp_path):
    path = write(tmp_path, '[train]\nepochs = "ten"\n')
    assert load_config(path, ["train.epochs=10"]).train.epochs == 10


def test_a_missing_setting_is_refused_only_where_it_is_needed(tmp_path):
    path = write(tmp_path, '[tiledinfer]\nimages_dir = "./in"\noutput_dir = "./out"\n')
    config = load_config(path)
    assert config.folder("tiledinfer", "images_dir").name == "in"
    with pytest.raises(ConfigError) as caught:
        config.need("train", "images_dir")
    assert f"{path} [train] images_dir: expected a path as text" in str(caught.value)
    assert "--set train.images_dir=…" in str(caught.value)
    with pytest.raises(ConfigError, match="num_classes"):
        config.need("model", "num_classes")


def test_a_config_made_in_python_is_checked_as_strictly(tmp_path):
    config = make_config({"train": {"epochs": 2, "images_dir": "a"}}, tmp_path)
    assert config.folder("train", "images_dir") == tmp_path.resolve() / "a"
    with pytest.raises(ConfigError, match="did you mean epochs"):
        make_config({"train": {"epoch": 2}})
    with pytest.raises(ConfigError, match="expected a whole number ≥ 1, got 0"):
        make_config({"train": {"epochs": 0}})


# --- contradictions ---

MAP = {(0, 0, 0): 0, (255, 0, 0): 1}


def findings_of(settings) -> dict[str, str]:
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
        ({"augmentor": {"tears": 0.4, "blur": 1, "stain": 1.0}}, "augmentor.tears", "nor has stain or blur"),
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
)  # fmt: skip
def test_settings_that_do_not_go_together_are_findings_of(settings, key, message):
    assert message in findings_of(settings)[key]


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
def test_settings_without_contradictions_have_no_findings(settings):
    assert findings_of(settings) == {}


def test_paths_are_compared_in_the_configs_folder(tmp_path, monkeypatch):
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
