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


def test_the_error_says_file_line_section_key_value_expected_and_got(tmp_path, monkeypatch):
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
    ],
)
def test_a_wrong_type_or_range_says_what_was_expected_and_what_came(tmp_path, section, line, expected):
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


def test_all_errors_are_told_at_once_in_the_order_of_the_lines(tmp_path):
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


def test_a_trailing_comma_behind_one_value_is_a_slip(tmp_path):
    config = load_config(write(tmp_path, "[train]\nepochs = 3,\n[augmentor]\nangles = 90,\nenabled = True\n"))
    assert config.train.epochs == 3
    assert config.augmentor.angles == (90,)
    assert [finding.line for finding in config.findings] == [2]


def test_numbers_may_be_whole_where_a_number_is_asked(tmp_path):
    config = load_config(write(tmp_path, "[brightening]\nalpha = 1\n"))
    assert config.brightening.alpha == 1.0
    assert isinstance(config.brightening.alpha, float)


def test_the_suffix_decides_between_the_formats_and_else_the_content(tmp_path):
    ini, toml = "[train]\nepochs = 3,\ntensorboard = True\n", "[train]\nepochs = 3\ntensorboard = true\n"
    for name, text in (("a.config", ini), ("a.ini", ini), ("a.toml", toml), ("a.txt", ini), ("b", toml)):
        config = load_config(write(tmp_path, text, name))
        assert config.train.epochs == 3
        assert config.train.tensorboard is True


def test_paths_start_from_the_configs_folder(tmp_path, monkeypatch):
    path = write(tmp_path, '[train]\nimages_dir = "../../data/images/"\n', "a/b/x.config")
    monkeypatch.chdir(tmp_path / "a")
    for name in (path, Path("b/x.config")):
        config = load_config(name)
        assert config.base_dir == (tmp_path / "a" / "b").resolve()
        assert config.folder("train", "images_dir") == tmp_path.resolve() / "data" / "images"
        assert config.resolve(config.train.model_dir) == (tmp_path / "a" / "b" / "models").resolve()
    assert config.resolve("/elsewhere/x") == Path("/elsewhere/x")


def test_a_path_with_backslashes_is_the_same_path(tmp_path):
    config = load_config(write(tmp_path, '[train]\nimages_dir = "..\\\\data\\\\images"\n'))
    assert config.train.images_dir == Path("../data/images")


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


def test_elsewhere_a_backslash_is_told(tmp_path):
    for name, text in (("a.config", r'"C:\new"'), ("a.toml", r'"C:\new"')):
        (found,) = check_config(write(tmp_path, f"[dataset]\nname = {text}\n", name))
        assert (found.severity, found.line) == ("warning", 2)
        assert "control character '\\n'" in found.message
    (found,) = check_config(write(tmp_path, '[dataset]\nname = "C:\\Users"\n', "b.config"))
    assert found.severity == "error"
    assert "write / or double the backslash" in found.message
    found = check_config(write(tmp_path, '[train]\nimages_dir = "C:\\new"\n', "b.toml"))
    assert [one.line for one in found if "control character '\\n'" in one.message] == [2]


def test_an_override_counts_over_the_file(tmp_path):
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


def test_a_path_of_an_override_starts_from_the_current_folder(tmp_path, monkeypatch):
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


def test_what_is_missing_is_refused_only_where_it_is_needed(tmp_path):
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


def test_there_is_a_metric_at_least(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics = \[\]: expected a list of one name or more, got \[\]"):
        load_config(write(tmp_path, "[model]\nmetrics = []\n"))
