"""Users' files in: pictures, pages and videos become upright RGB pictures, under every limit on what nobody has looked at."""

from minimonkey.documents.pages import MAX_PAGES, check_pages, load_pages, page_count, page_numbers
from minimonkey.documents.pictures import MAX_BYTES, MAX_PIXELS, load_picture, picture_size
from minimonkey.documents.video import MAX_FRAMES, frame_indices, frames_prompt, load_frames

__all__ = [
    "MAX_BYTES",
    "MAX_FRAMES",
    "MAX_PAGES",
    "MAX_PIXELS",
    "check_pages",
    "frame_indices",
    "frames_prompt",
    "load_frames",
    "load_pages",
    "load_picture",
    "page_count",
    "page_numbers",
    "picture_size",
]
