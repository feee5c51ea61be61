"""The names a config may give are those that are built."""

from __future__ import annotations

from glomtile.config import schema as schema_model
from glomtile.networks import layers as blocks
from glomtile.networks import losses, metrics, registry


def test_the_configs_names_are_those_that_are_built() -> None:
    assert set(schema_model.LOSSES) == set(losses.LOSSES)
    assert set(schema_model.METRICS) == set(metrics.METRICS)
    assert set(schema_model.ACTIVATIONS) == set(blocks.ACTIVATIONS)
    built = {name.removeprefix("TensorFlow") for name in registry.NETWORKS}
    assert built == set(schema_model.BUILT_NETWORKS)
    assert set(registry.NOT_BUILT_HERE) | set(registry.NETWORKS) == set(schema_model.NETWORK_NAMES)
