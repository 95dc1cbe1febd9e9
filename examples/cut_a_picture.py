"""Which tiles does a picture become? No model is needed; the drawing goes to the path given, or beside this script."""

import sys
from pathlib import Path

from PIL import Image

from minimonkey import PyramidSpec, Size
from minimonkey.visualize import draw_pyramid

picture = Image.open(Path(__file__).parent / "receipt.png").convert("RGB")
size = Size(picture.height, picture.width)

for spec in (PyramidSpec(), PyramidSpec.plain(1, 12), PyramidSpec(max_upscale=1.0)):
    print(spec.plan(size).describe(), end="\n\n")

drawing = draw_pyramid(picture, PyramidSpec(tile_px=224, max_upscale=1.5, fit="pad").plan(size))
drawing.save(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "receipt.pyramid.png")
