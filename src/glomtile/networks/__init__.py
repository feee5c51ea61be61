"""The networks and what trains them: `keras` and `keras.ops` only, so that every backend runs them."""

from glomtile.networks.registry import Geometry, build_model, geometry

__all__ = ["Geometry", "build_model", "geometry"]
