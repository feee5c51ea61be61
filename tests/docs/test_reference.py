"""Reference pages: every key, option, public name and column is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import glomtile
from docsite.reference import command_tree, commands_page, config_page, python_page
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import BUILT_NETWORKS, SECTIONS, key_info
from glomtile.evaluation.score import COUNT_COLUMNS, IMAGE_COLUMNS
from glomtile.inference.segmenter import COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _rows(page: str) -> dict[str, list[str]]:
    """Cells of a table's rows by the anchor in the first."""
    found = {}
    for line in page.splitlines():
        if match := re.match(r'\s*\| <a id="([\w.]+)"></a>', line):
            found[match[1]] = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return found


def test_every_setting_has_a_row_with_what_range_unit_and_default() -> None:
    rows = _rows(config_page())
    keys = {f"{name}.{key}": info for name, s in SECTIONS.items() for key, info in s.model_fields.items()}
    assert set(rows) == set(keys)
    for name, info in keys.items():
        cells = rows[name]
        assert len(cells) == (6 if key_info(info).networks or key_info(info).inert else 5), name
        assert cells[3] == (key_info(info).unit or "")
        assert all((cells[1], cells[2], cells[4])), name
    assert rows["train.epochs"][2:5] == ["a whole number ≥ 1", "epochs", "`100`"]
    assert rows["model.model"][2] == " or ".join(f'"{name}"' for name in BUILT_NETWORKS)


def test_what_has_no_effect_says_why() -> None:
    rows = _rows(config_page())
    assert "moved aside" in rows["train.create_backup"][5]
    assert rows["model.embed_dim"][5] == "a key of TransUNet"


def test_every_command_and_option_is_listed() -> None:
    page = commands_page()
    for name, command in command_tree().items():
        section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert section, name
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                assert all(f"`{option}`" in section for option in parameter.opts), (name, parameter.name)
                assert parameter.help in section.replace("\\|", "|").replace("\\*", "*")


def test_a_new_command_does_not_need_to_be_sorted_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docsite.reference.COMMAND_ORDER", (("Some", ("train",)),))
    assert "\n## Others\n" in commands_page()
    assert "\n### segment\n" in commands_page()


def test_every_public_name_is_documented_at_its_home() -> None:
    documented = re.findall(r"^::: ([\w.]+)$", python_page(), re.MULTILINE)
    assert [path.rpartition(".")[2] for path in documented] == glomtile.__all__
    for path in documented:
        assert getattr(glomtile, path.rpartition(".")[2]).__module__ == path.rpartition(".")[0]


@pytest.mark.parametrize(
    ("page", "columns"),
    [
        ("files.md", (*IMAGE_COLUMNS, *COUNT_COLUMNS, *ModelCard.model_fields)),
        ("outputs.md", COLUMNS),
    ],
)
def test_every_column_and_field_that_is_written_is_explained(page: str, columns: tuple[str, ...]) -> None:
    explained = set(re.findall(r"`(\w+)`", (DOCS / page).read_text("utf-8")))
    assert not [column for column in columns if column not in explained]
