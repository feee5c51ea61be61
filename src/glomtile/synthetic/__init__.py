"""A procedural PAS biopsy of any size with exact truth."""

from glomtile.synthetic.biopsy import Phantom, PhantomSlide, paint
from glomtile.synthetic.noise import PRESETS, Dyes, Preset, draw_dyes

__all__ = ["PRESETS", "Dyes", "Phantom", "PhantomSlide", "Preset", "draw_dyes", "paint"]
