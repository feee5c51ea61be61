"""Any config is read or refused in short time, and no code in it is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomtile.config.load import check_config, load_config
from glomtile.errors import ConfigError

SPY = "open({!r}, 'w').write('run')"
CODE = [
    "{spy}",
    "[{spy}]",
    "{{'a': {spy}}}",
    "(lambda: {spy})()",
    "[{spy} for _ in (1,)]",
    "__import__('os').system('touch {file}')",
    'f"{{{spy}}}"',
    "{spy} if True else 1",
    "1 if {spy} else 1",
    "(1, {spy})",
    "type('x', (), {{'__repr__': lambda s: {spy}}})()",
    "eval({spy!r})",
    "'%s' % {spy}",
    "{spy}  # 3",
    "getattr(__builtins__, 'open')({file!r}, 'w')",
]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("place", ["train.epochs", "train.images_dir", "mask.rgb_map", "model.loss", "x.y"])
def test_code_in_a_value_is_an_error_and_is_not_run(tmp_path, code, place):
    """Reference §6.4: there every value was passed to eval()."""
    proof = tmp_path / "proof"
    section, key = place.split(".")
    value = code.format(spy=SPY.format(str(proof)), file=str(proof))
    path = tmp_path / "x.config"
    path.write_text(f"[{section}]\n{key} = {value}\n")
    (finding,) = [finding for finding in check_config(path) if finding.severity == "error"]
    assert (finding.line, finding.section, finding.key) == (2, section, key)
    assert "got code" in finding.message
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_code == 2
    assert not proof.exists()


def test_code_on_the_command_line_is_not_run(tmp_path):
    proof = tmp_path / "proof"
    path = tmp_path / "x.config"
    path.write_text("[train]\nepochs = 1\n")
    with pytest.raises(ConfigError, match="got code"):
        load_config(path, [f"train.epochs={SPY.format(str(proof))}"])
    assert not proof.exists()


HOSTILE = {
    "thousands of digits": "[train]\nepochs = " + "9" * 50_000,
    "thousands of hexadecimal digits": "[train]\nepochs = 0x" + "9" * 50_000,
    "a number no float holds": "[model]\nlearning_rate = 1" + "0" * 400,
    "brackets without end": "[mask]\nrgb_map = " + "[" * 60_000,
    "brackets line by line": "[mask]\nrgb_map = [\n" + "[\n" * 40_000,
    "dictionaries in dictionaries": "[mask]\nrgb_map = " + "{1:" * 5_000 + "1" + "}" * 5_000,
    "signs without end": "[model]\nlearning_rate = " + "-" * 60_000 + "1",
    "a sum without end": "[model]\nlearning_rate = " + "1+" * 30_000 + "1",
    "a key for a dictionary that cannot be one": "[mask]\nrgb_map = {[0, 0, 0]: 0}",
    "a complex number": "[train]\nepochs = 1+2j",
    "bytes": "[train]\nimages_dir = b'x'",
    "a null sign in a path": '[train]\nimages_dir = "a\\0b"',
    "an ellipsis": "[train]\nepochs = ...",
    "a set": "[augmentor]\nangles = {1, 2}",
    "not a number": "[augmentor]\nblur = 1e400",
    "half a character in a text": '[model]\nloss = "\\ud800"',
    "half a character in a path": '[train]\nimages_dir = "x\\ud800"',
    "half a character in a list": '[model]\nmetrics = ["\\ud800"]',
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_value_is_refused_in_one_short_line(tmp_path, name):
    path = tmp_path / "x.config"
    path.write_text(HOSTILE[name])
    errors = [finding for finding in check_config(path) if finding.severity == "error"]
    assert len(errors) == 1
    assert len(str(errors[0])) < 600
    assert "\n" not in str(errors[0])
    str(errors[0]).encode("utf-8")
    with pytest.raises(ConfigError):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "[train]\nepochs = " + "9" * 50_000,
        "[train]\nepochs = " + "[" * 50_000,
        "[train]\nepochs = " + "{a=" * 3_000 + "1" + "}" * 3_000,
        "[train]\nepochs." + "a." * 500 + "b = 1",
        "[train]\nepochs = 1979-05-27",
        "[[train]]\nepochs = 1\n[train]\n",
        "[train]\nepochs = 1\nepochs = 2",
        "[model]\nlearning_rate = nan",
        "[model]\nlearning_rate = inf",
        "\n" * 50_000 + "[train]\nepochs = none",
        "[train]\nepochs = " + " " * 50_000 + "none",
        "[train]\n" + "a" * 50_000 + " = none",
        "[train]\n" + ";" * 50_000,
        "['train']\nepochs = 1\n['train']\n",
    ],
)
def test_hostile_toml_is_refused_too(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text)
    errors = [finding for finding in check_config(path) if finding.severity == "error"]
    assert len(errors) == 1
    assert len(str(errors[0])) < 600


@pytest.mark.timeout(60)
def test_thousands_of_unknown_keys_are_listed_in_time(tmp_path):
    path = tmp_path / "x.config"
    path.write_text("[train]\n" + "".join(f"epochz_{i:04d}=1\n" for i in range(1_000)))
    findings = check_config(path)
    assert len(findings) == 1_000
    assert {finding.severity for finding in findings} == {"warning"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "expected text, got a binary file"),
        (b"[train]\nepochs = 1\n\0", "expected text, got a binary file"),
        (b"; filling\n" * 20_000, "expected a config of at most"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, data, expected):
    path = tmp_path / "x.config"
    path.write_bytes(data)
    (finding,) = check_config(path)
    assert finding.severity == "error"
    assert expected in finding.message


def test_a_missing_file_a_folder_and_a_loop_of_links_are_refused(tmp_path):
    loop = tmp_path / "loop.config"
    loop.symlink_to(loop)
    for path in (tmp_path / "missing.config", tmp_path, loop):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(path) in str(caught.value)
        assert "expected" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "x.config"
    path.write_text("[train]\n")
    path.chmod(0)
    with pytest.raises(ConfigError, match="expected a readable file"):
        load_config(path)


def test_comments_in_a_foreign_encoding_do_not_stop_it(tmp_path):
    path = tmp_path / "x.config"
    path.write_bytes(b"[train]\n; kidney " + "腎臓".encode("shift_jis") + b"\nepochs = 3\n")
    config = load_config(path)
    assert config.train.epochs == 3
    assert [(finding.severity, finding.line) for finding in config.findings] == [("warning", 2)]


def test_an_empty_file_is_a_config_of_defaults(tmp_path):
    for name in ("x.config", "x.toml", "x"):
        path = tmp_path / name
        path.write_bytes(b"")
        assert load_config(path).train.epochs == 100


TOKENS = ["[train]", "[model]", "[mask]", "epochs = ", "rgb_map = {", "}", "(0,0,0):0,", "3", '"', "\n", "="]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(
        st.sampled_from(TOKENS),
        max_size=30,
    ).map(lambda parts: "".join(parts).encode()),
    st.sampled_from(["x.config", "x.toml", "x"]),
)
def test_any_bytes_are_read_or_refused(tmp_path, data, name):
    path = Path(tmp_path) / name
    path.write_bytes(data)
    findings = check_config(path)
    if any(finding.severity == "error" for finding in findings):
        with pytest.raises(ConfigError):
            load_config(path)
    else:
        assert load_config(path).findings == tuple(findings)
