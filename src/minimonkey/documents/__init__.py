"""Users' files in: pictures and videos become upright RGB pictures, under every limit on what nobody has looked at."""

from minimonkey.documents.pictures import MAX_BYTES, MAX_PIXELS, load_picture, picture_size
from minimonkey.documents.video import MAX_FRAMES, frame_indices, frames_prompt, load_frames

__all__ = ["MAX_BYTES", "MAX_FRAMES", "MAX_PIXELS", "frame_indices", "frames_prompt", "load_frames", "load_picture", "picture_size"]
