"""Which tiles a picture of a given size becomes: grids, levels, settings. Integers and the standard library alone."""

from minimonkey.pyramid.grid import LEVEL_NAMES, MOST_TILES, Box, Grid, Level, LevelName, Size, Tile
from minimonkey.pyramid.plan import Pyramid, PyramidSpec, Span

__all__ = ["LEVEL_NAMES", "MOST_TILES", "Box", "Grid", "Level", "LevelName", "Pyramid", "PyramidSpec", "Size", "Span", "Tile"]
