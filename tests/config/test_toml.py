from __future__ import annotations

import re
import tomllib
import typing
from pathlib import Path
from types import UnionType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from glomtile.config.load import check_config, load_config, make_config
from glomtile.config.schema import BUILT_NETWORKS, NETWORK_NAMES, SECTIONS, Config, key_info
from glomtile.config.toml import parse_toml, template, to_toml

texts = st.text(max_size=12).filter(lambda text: text.lower() not in ("none", "null"))
names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\\"), min_size=1, max_size=12
).filter(lambda text: text.lower() not in ("none", "null"))


def _limits(metadata) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= _limits(item.metadata)
        for end in ("ge", "gt", "le", "lt"):
            if hasattr(item, end):
                found[end] = getattr(item, end)
    return found


def valid(annotation, metadata=()) -> st.SearchStrategy:
    """Every value that a setting's type and range allow."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = valid(parts[0], (*parts[1:], *metadata))
        ordered = any(isinstance(item, AfterValidator) for item in parts[1:])
        return inner.map(lambda pair: tuple(sorted(pair))) if ordered else inner
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin in (typing.Union, UnionType):
        return st.one_of(*(valid(part, metadata) for part in parts))
    if origin is tuple and parts[-1] is Ellipsis:
        return st.lists(valid(parts[0]), max_size=4).map(tuple)
    if origin is tuple:
        return st.tuples(*map(valid, parts))
    if origin is dict:
        return st.dictionaries(valid(parts[0]), st.integers(0, 253), max_size=4)
    limits = _limits(metadata)
    if annotation is int:
        low, high = limits.get("ge", -(2**31)), limits.get("le", 2**31)
        return st.integers(int(low), int(high))
    if annotation is float:
        return st.floats(
            limits.get("ge", limits.get("gt", -1e6)),
            limits.get("le", limits.get("lt", 1e6)),
            exclude_min="gt" in limits,
            exclude_max="lt" in limits,
        )
    return {bool: st.booleans(), str: texts, Path: names, type(None): st.none()}[annotation]


thorough = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=50,
)


@st.composite
def written(draw) -> dict[str, dict[str, object]]:
    """Some keys of some sections, each with a valid value."""
    chosen: dict[str, dict[str, object]] = {}
    for name in draw(st.sets(st.sampled_from(sorted(SECTIONS)), max_size=5)):
        fields = SECTIONS[name].model_fields
        keys = draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=6))
        chosen[name] = {
            key: draw(valid(fields[key].annotation, fields[key].metadata)) for key in sorted(keys)
        }
    return chosen


@thorough
@given(written())
def test_a_config_comes_back_from_toml_as_it_was(tmp_path, chosen):
    config = make_config(chosen)
    path = tmp_path / "x.toml"
    path.write_text(to_toml(config), "utf-8", newline="")
    again = load_config(path)
    assert again.model_dump() == config.model_dump()
    assert to_toml(again) == to_toml(config)
    for name in SECTIONS:
        assert again.section(name).model_fields_set == config.section(name).model_fields_set


@thorough
@given(written())
def test_the_same_values_read_the_same_from_ini_and_from_toml(tmp_path, chosen):
    lines = []
    for section, keys in chosen.items():
        lines += [f"[{section}]", *(f"{key} = {value!r}" for key, value in keys.items())]
    ini, toml = tmp_path / "x.config", tmp_path / "x.toml"
    ini.write_text("\n".join(lines), "utf-8")
    read = load_config(ini)
    toml.write_text(to_toml(read), "utf-8", newline="")
    assert load_config(toml).model_dump() == read.model_dump() == make_config(chosen).model_dump()


def test_toml_contains_the_keys_that_are_set():
    config = make_config(
        {"train": {"epochs": 3, "images_dir": "../data"}, "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}}}
    )
    assert to_toml(config) == (
        '[train]\nimages_dir = "../data"\nepochs = 3\n\n[mask]\nrgb_map = {"0,0,0" = 0, "255,0,0" = 1}\n'
    )
    assert to_toml(Config()) == ""


def test_a_finding_in_toml_has_its_line(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('# c\n[train]\n# epochs = 1\nepochs = "ten" # ten\n[mask.rgb_map]\n"0,0" = 0\n')
    assert [(f.line, f.section, f.key, f.value) for f in check_config(path)] == [
        (4, "train", "epochs", '"ten"'),
        (5, "mask", "rgb_map", "{'0,0': 0}"),
    ]


def test_toml_outside_a_section_is_a_finding():
    parsed = parse_toml("epochs = 3\n[train]\npatience = 2\n", "x.toml")
    assert [entry.key for entry in parsed.entries] == ["patience"]
    assert [(f.severity, f.line, f.key) for f in parsed.findings] == [("warning", 1, "epochs")]


@pytest.fixture(scope="module")
def starter() -> str:
    return template()


def test_the_template_is_a_config_without_a_finding(starter, tmp_path):
    path = tmp_path / "new.toml"
    path.write_text(starter, "utf-8")
    assert check_config(path) == []
    config = load_config(path)
    assert config.palette().names == ("background", "glomerulus")
    for section in ("train", "valid", "test"):
        assert config.need(section, "images_dir")
        assert config.need(section, "masks_dir")


@pytest.fixture(scope="module")
def uncommented(starter) -> str:
    """The template with every key's mark taken away; lines of help have words before any equals sign."""
    return re.sub(r"(?m)^# (?=\w+ =)", "", starter)


def test_the_template_shows_every_setting_of_the_built_networks_with_its_default(uncommented):
    shown = tomllib.loads(uncommented)
    for name, section in SECTIONS.items():
        for key, info in section.model_fields.items():
            known = key_info(info)
            assert (key in shown.get(name, {})) == (not known.networks and not known.inert)
    read = make_config(shown)
    assert read.model.learning_rate == Config().model.learning_rate
    assert read.augmentor == Config().augmentor.model_copy(update={"enabled": None})


def test_the_uncommented_template_has_the_same_settings(starter, uncommented, tmp_path):
    before, after = tmp_path / "before.toml", tmp_path / "after.toml"
    before.write_text(starter, "utf-8")
    after.write_text(uncommented, "utf-8")
    assert check_config(after) == []
    assert load_config(after).model_dump() == load_config(before).model_dump()
    assert not re.search(r"(?m)=\s*$", starter)


def test_each_commented_key_of_the_template_is_toml_by_itself(starter):
    commented = re.findall(r"(?m)^# (\w+ = ?.*)$", starter)
    assert len(commented) > 50
    for line in commented:
        tomllib.loads(line)


def test_the_template_is_toml_and_names_built_networks_only(starter):
    assert not re.search(r"\b(True|False|None)\b", starter)
    assert not re.search(r"(?<!\")\bnone =", starter)
    networks = set(NETWORK_NAMES) - set(BUILT_NETWORKS)
    assert not any(name in starter for name in networks)


def test_the_templates_paths_are_those_that_prepare_makes(starter, tmp_path):
    path = tmp_path / "new.toml"
    path.write_text(starter, "utf-8")
    config = load_config(path)
    for split in ("train", "valid", "test"):
        for kind in ("images", "masks"):
            assert config.folder(split, f"{kind}_dir") == tmp_path.resolve() / "dataset" / split / kind
    for section, out in (("infer", "mini_test_output"), ("tiledinfer", "mini_test_output_tiled")):
        assert config.folder(section, "images_dir") == tmp_path.resolve() / "mini_test" / "images"
        assert config.folder(section, "output_dir") == tmp_path.resolve() / out


def test_an_error_in_toml_uses_toml_words(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[model]\nmpp = 0\n[augmentor]\nhflip = 1\n")
    assert [finding.message for finding in check_config(path)] == [
        'expected a number from 0.05 to 20 or "none", got 0',
        "expected true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("mpp = none", 'write "none" in quotes'),
        ("mpp = None # unknown", 'write "none" in quotes'),
        ("generator = True", "write true in lower case"),
        ("base_kernels = (3, 3)", "write lists in square brackets"),
        ("optimizer = Adam", "write texts in quotes"),
        ("optimizer = ./x", "write texts in quotes"),
    ],
)
def test_a_value_that_only_the_ini_dialect_has_gets_a_hint(line, hint):
    (finding,) = parse_toml(f"[model]\n{line}\n", "x.toml").findings
    assert (finding.severity, finding.line) == ("error", 2)
    assert finding.message.endswith(f"; {hint}")


def test_other_broken_toml_gets_its_line_and_no_hint():
    for value in ("3 4", "ten"):
        (finding,) = parse_toml(f"[train]\nepochs = {value}\n", "x.toml").findings
        assert (finding.severity, finding.line) == ("error", 2)
        assert (";" in finding.message) == (value == "ten")


@pytest.mark.parametrize(
    "text",
    [
        "; a comment\n[train]\nepochs = 3\n",
        "[model]\ngenerator = True\nbase_kernels = (3, 3)\n",
        "[mask]\nrgb_map = {(0, 0, 0): 0}\n[model]\ngenerator = False\n",
    ],
)
def test_the_ini_dialect_under_a_toml_name_is_recognised(text):
    (finding,) = parse_toml(text, "x.toml").findings
    assert "may be the INI dialect" in finding.message
    assert ".config" in finding.message


def test_the_config_of_the_reference_with_a_toml_name_is_recognised(root):
    text = (root / "projects/flexunet/glomeruli/train_eval_infer.config").read_text("utf-8")
    assert "may be the INI dialect" in str(parse_toml(text, "x.toml").findings[0])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "[model]\nmpp = 1\n[train]\nepochs = 1\n\nepochs = 2\n",
            6,
            "duplicate key [train] epochs, also in line 4; keep one of them",
        ),
        ('[model]\n"mpp" = 1\nmpp = 2\n', 3, "duplicate key [model] mpp, also in line 2; keep one of them"),
        (
            "[augmentor]\nangles = [1]\nangles = [\n 1,\n]\n",
            5,
            "duplicate key [augmentor] angles, also in line 2; keep one of them",
        ),
        (
            "[train]\nepochs = 1\n[model]\n[train]\npatience = 2\n",
            4,
            "duplicate section [train], also in line 1; keep one of them",
        ),
    ],
)
def test_duplicates_in_toml_are_named_with_their_first_line(text, line, message):
    (finding,) = parse_toml(text, "x.toml").findings
    assert (finding.severity, finding.line, finding.message) == ("error", line, message)


def test_duplicates_in_nested_tables_are_refused():
    for text in ("[[train]]\nx = 1\n[train]\n", "[m]\na.b = 1\na.b = 2\n", '[t]\n"a b" = 1\n"a b" = 2\n'):
        (finding,) = parse_toml(text, "x.toml").findings
        assert finding.severity == "error"
        assert finding.line == 3
        assert "line 3 too" not in finding.message


def test_a_duplicate_section_in_single_quotes_is_named():
    (finding,) = parse_toml("['train']\nx = 1\n['train']\n", "x.toml").findings
    assert finding.message == "duplicate section [train]; keep one of them"


def test_a_unicode_line_separator_is_no_line_break():
    (finding,) = parse_toml('[model]\r\nloss = "a\u2028b"\r\nmpp = none\r\n', "x.toml").findings
    assert finding.line == 3
    assert finding.message.endswith('at column 7; write "none" in quotes')
