"""Procedural PAS biopsies of any size with exact truth."""

from glomtile.synthetic.biopsy import SyntheticBiopsy, SyntheticSlide, paint
from glomtile.synthetic.scene import PRESETS, Dyes, Preset, draw_dyes

__all__ = ["PRESETS", "Dyes", "Preset", "SyntheticBiopsy", "SyntheticSlide", "draw_dyes", "paint"]
