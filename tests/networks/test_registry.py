from __future__ import annotations

import pytest

from glomtile.config import schema as schema_model
from glomtile.errors import ConfigError
from glomtile.networks.registry import NETWORKS, NOT_BUILT_HERE, build_model, geometry


def test_the_references_name_and_ours_are_one_network():
    assert NETWORKS["TensorFlowFlexUNet"] is NETWORKS["FlexUNet"]


def test_every_network_the_config_knows_is_built_or_said_not_to_be():
    assert set(schema_model.NETWORK_NAMES) == set(NETWORKS) | set(NOT_BUILT_HERE)
    assert set(schema_model.BUILT_NETWORKS) <= set(NETWORKS)


@pytest.mark.parametrize("ask", [build_model, geometry])
def test_a_network_of_the_reference_that_is_not_built_here_is_named_so(ask, small):
    with pytest.raises(
        ConfigError, match=r"'TensorFlowSwinUNet', which is not \(networks built here: FlexUNet"
    ):
        ask(small(model="TensorFlowSwinUNet"))


def test_a_network_nobody_knows_is_refused(small):
    with pytest.raises(ConfigError, match="expected the name of a network, got 'UNet9000'"):
        build_model(small(model="UNet9000"))


@pytest.mark.parametrize(("norm", "local"), [("none", True), ("batch", True), ("group", False)])
def test_only_a_normalisation_over_the_window_is_not_local(norm, local, small):
    assert geometry(small(norm=norm)).local is local
