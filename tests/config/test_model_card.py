from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from glomtile.config.model_card import ModelCard, TrainingData
from glomtile.config.schema import ModelSettings
from glomtile.errors import ModelError
from glomtile.palette import GLOMERULI


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        network=ModelSettings(num_classes=2, base_kernels=(11, 11), num_layers=8, mpp=2.0, norm="batch"),
        classes=ModelCard.classes_of(GLOMERULI),
        mpp=2.0,
        mpp_range=(1.6, 2.5),
        tile_px=(256, 384),
        overlap_px=64,
        stride_px=128,
        context_px=1000,
        data=TrainingData(name="biopsies", licence="CC BY 4.0", images=12, valid_images=3),
        epoch=7,
        scores={"glomerulus": {"pooled_dice": [0.9, 0.85, 0.94]}, "left_out": 0, "note": None},
        versions={"keras": "3.10"},
        sha256={"model.keras": "0f" * 32},
    )


def test_a_card_survives_its_json(card):
    again = ModelCard.from_json(card.to_json())
    assert again == card
    assert again.network.base_kernels == (11, 11)
    assert again.palette() == GLOMERULI
    assert again.to_json() == card.to_json()


def test_a_card_is_plain_json_of_its_facts(card):
    facts = json.loads(card.to_json())
    assert facts["format"] == 1
    assert facts["classes"][1] == {"number": 1, "name": "glomerulus", "rgb": [255, 0, 0]}
    assert facts["network"]["num_layers"] == 8
    assert facts["tile_px"] == [256, 384]


def test_a_card_cannot_be_changed(card):
    with pytest.raises(ValidationError):
        card.mpp = 1.0


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"stride_px": 0}, "stride_px"),
        ({"stride_px": None}, "stride_px"),
        ({"mpp": 96}, "mpp"),
        ({"mpp_range": [2, 1]}, "mpp_range"),
        ({"format": 2}, "format"),
        ({"classes": []}, "classes"),
        ({"classes": [{"number": 0, "name": "x", "rgb": [0, 0, 300]}]}, "classes.0.rgb.2"),
        ({"sha256": {"model.keras": "abc"}}, "sha256.model.keras"),
        ({"network": {"num_layers": 0}}, "network.num_layers"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_card_is_refused_with_its_file_and_field(card, change, place):
    text = json.dumps(json.loads(card.to_json()) | change)
    with pytest.raises(ModelError) as caught:
        ModelCard.from_json(text, "best/model.json")
    assert str(caught.value).startswith("best/model.json: expected a model card, got")
    assert f"for {place}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"', "NaN", "[" * 5000])
def test_other_text_is_refused(text):
    with pytest.raises(ModelError, match="expected a model card"):
        ModelCard.from_json(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"mpp": 2.0,', '"mpp": 2.1,'),
        ('"min_area_um2": 1000.0', '"min_area_um2": 1001.0'),
        ('"name": "glomerulus"', '"name": "glomerulux"'),
        ('"epoch": 7', '"epoch": 8'),
        ('"pooled_dice": [\n', '"pooled_dicf": [\n'),
    ],
)
def test_a_changed_letter_of_a_card_is_detected(card, before, after):
    text = card.to_json()
    changed = text.replace(before, after)
    assert changed != text
    with pytest.raises(ModelError, match=r"best/model.json: expected the content that its card_sha256 names"):
        ModelCard.from_json(changed, "best/model.json")


@pytest.mark.parametrize("digest", ["0f" * 32, "", None, 7, ["x"]])
def test_a_damaged_digest_is_detected(card, digest):
    with pytest.raises(ModelError, match="card_sha256"):
        ModelCard.from_json(json.dumps(json.loads(card.to_json()) | {"card_sha256": digest}))


def test_a_card_written_before_cards_had_digests_is_read(card):
    facts = json.loads(card.to_json())
    del facts["card_sha256"]
    assert ModelCard.from_json(json.dumps(facts)) == card


def test_layout_and_order_of_a_card_are_no_damage(card):
    facts = json.loads(card.to_json())
    turned = json.dumps(dict(reversed(facts.items())), indent=7)
    assert ModelCard.from_json(turned) == card
