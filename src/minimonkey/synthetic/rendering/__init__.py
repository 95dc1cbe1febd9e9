"""From text to pixels: lines, layout, style, and what paper, light and cameras do to it."""
