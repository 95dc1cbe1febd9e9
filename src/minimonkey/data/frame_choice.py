"""Which frames of a video the published training code takes. `documents.frame_indices` is the choice of the model cards.

Source: `get_frame_indices` in InternVL's `internvl/train/dataset.py`. Its random choice isn't here: it isn't reproducible.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from minimonkey.errors import UsageError


def published_frame_indices(frames: int, video_frames: int, sample: str = "middle", *, fps: float = 1.0) -> list[int]:
    """Numbers of the frames that are shown, ascending.

    Args:
        frames: how many are wanted, the most for "fps...".
        video_frames: how many the video has.
        sample: "middle" takes the middle of each of `frames` equal parts, and the last frame again where the video is shorter;
            "fps0.5" takes so many a second, from half an interval on, and may take none of a short video.
        fps: frames a second of the video.

    Raises:
        UsageError: a count below 1, or another name for `sample`.
    """
    if frames < 1 or video_frames < 1 or not fps > 0:
        raise UsageError(f"{frames} of {video_frames} frames at {fps} a second: expected numbers above 0")
    if sample == "middle":
        cuts = np.linspace(0, video_frames, min(frames, video_frames) + 1).astype(int).tolist()
        middles = [(start + stop - 1) // 2 for start, stop in pairwise(cuts)]
        return middles + middles[-1:] * (frames - len(middles))
    rate = re.fullmatch(r"fps(\d+\.?\d*|\.\d+)", sample)
    if not rate or not float(rate[1]):
        raise UsageError(f"sample={sample!r}: expected 'middle', or 'fps' and a number, as in 'fps0.5'")
    interval = 1 / float(rate[1])
    seconds = np.arange(interval / 2, video_frames / fps + interval / 2, interval)
    indices = np.around(seconds * fps).astype(int)
    return indices[indices < video_frames][:frames].tolist()
