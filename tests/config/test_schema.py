from __future__ import annotations

import pytest
from pydantic import ValidationError

from glomtile.config.findings import expectation
from glomtile.config.load import make_config
from glomtile.config.schema import SECTIONS, Config, ModelSettings, TrainSettings, key_info
from glomtile.errors import ConfigError

FIELDS = [
    pytest.param(name, key, info, id=f"{name}.{key}")
    for name, settings in SECTIONS.items()
    for key, info in settings.model_fields.items()
]


@pytest.mark.parametrize(("name", "key", "info"), FIELDS)
def test_every_setting_has_a_description_a_type_and_a_valid_default(name, key, info):
    assert info.description
    assert "\n" not in info.description
    assert expectation(SECTIONS[name], key)
    assert getattr(SECTIONS[name](**{key: info.default}), key) == info.default


def test_settings_cannot_be_changed_or_misspelt():
    with pytest.raises(ValidationError):
        TrainSettings().epochs = 3
    with pytest.raises(ValidationError):
        TrainSettings(epoch=3)


def test_normalization_is_batch_norm():
    assert ModelSettings().norm == "none"
    assert ModelSettings(normalization=True).norm == "batch"
    assert ModelSettings(normalization=True, norm="group").norm == "group"


def test_only_one_way_of_clipping_is_kept():
    assert ModelSettings().clipvalue == 0.2
    assert ModelSettings(clipnorm=1.0).clipvalue is None
    assert ModelSettings(clipvalue=0).clipvalue is None


@pytest.mark.parametrize(
    ("settings", "augments"),
    [
        ({}, False),
        ({"model": {"generator": True}}, True),
        ({"model": {"generator": True}, "generator": {"augmentation": False}}, False),
        ({"augmentor": {"enabled": True}}, True),
        ({"model": {"generator": True}, "augmentor": {"enabled": False}}, False),
    ],
)
def test_augmentation_follows_its_switches(settings, augments):
    assert make_config(settings).augments is augments


def test_the_palette_follows_class_numbers_and_not_the_maps_order():
    """Reference §6.11."""
    config = make_config(
        {"mask": {"rgb_map": {(255, 0, 0): 1, (0, 0, 0): 0}, "class_names": ["background", "glomerulus"]}}
    )
    assert config.palette().to_rgb_map() == {(0, 0, 0): 0, (255, 0, 0): 1}
    assert config.palette().names == ("background", "glomerulus")


def test_a_palette_with_a_gap_is_a_warning_in_the_file_and_an_error_when_used():
    config = make_config({"mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 2}}})
    assert "without a gap" in config.findings[0].message
    with pytest.raises(ConfigError, match="without a gap"):
        config.palette()


@pytest.mark.parametrize("key", ["255,0,0", "(255, 0, 0)", "#ff0000", "#FF0000", (255, 0, 0)])
def test_a_colour_may_be_written_in_several_ways(key):
    assert make_config({"mask": {"rgb_map": {key: 1}}}).mask.rgb_map == {(255, 0, 0): 1}


@pytest.mark.parametrize(
    "key", ["#ff000", "#gg0000", "red", "255,0", "255,0,0,0", "", "-1,0,0", "256,0,0", 5]
)
def test_what_is_no_colour_is_refused(key):
    with pytest.raises(ConfigError, match=r"expected a map of \(r, g, b\)"):
        make_config({"mask": {"rgb_map": {key: 1}}})


def test_none_may_be_text_where_it_is_a_value():
    assert make_config({"model": {"mpp": "none"}}).model.mpp is None
    assert make_config({"model": {"loss": "none"}}).model.loss == "none"


def test_is_set_distinguishes_values_from_defaults():
    config = make_config({"train": {"steps_per_epoch": 400}})
    assert config.train.is_set("steps_per_epoch")
    assert not config.train.is_set("epochs")


def test_an_empty_config_has_the_defaults():
    assert Config().train.epochs == 100
    assert Config().findings == ()


def test_keys_of_the_reference_are_marked():
    assert key_info(ModelSettings.model_fields["mpp"]).ours
    assert not key_info(ModelSettings.model_fields["num_layers"]).ours
