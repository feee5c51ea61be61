"""A procedural PAS biopsy of any size with exact truth."""

from glomtile.core.phantom.preset import PRESETS, Dyes, Preset, draw_dyes
from glomtile.core.phantom.slide import Phantom, PhantomSlide, paint

__all__ = ["PRESETS", "Dyes", "Phantom", "PhantomSlide", "Preset", "draw_dyes", "paint"]
