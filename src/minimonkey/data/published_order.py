"""In which order the published training code takes a data set's rows, and with which weights it means to mix sets.

Source: `LazySupervisedDataset` and `build_datasets` in InternVL's `internvl_chat_finetune.py` and in Mini-Monkey's. Here for
    parity; `Mixture` says where ours differs, and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minimonkey.errors import UsageError


def published_rows(row_count: int, repeat_time: float, *, shuffle_seed: int | None = None) -> np.ndarray:
    """Numbers of the rows of one data set, in order.

    Args:
        row_count: rows of the file.
        repeat_time: below 1 the first `int(row_count * repeat_time)` rows, above 1 all rows so many times.
        shuffle_seed: Mini-Monkey, and InternVL for packed training, shuffle then, with the number of the data set in its meta file
            as the seed; None leaves the order of the file, as InternVL does otherwise.

    Returns:
        int64 [rows after repetition].

    Raises:
        UsageError: a `repeat_time` above 1 that is no whole number, which the published code refuses too.
    """
    if repeat_time > 1 and repeat_time != int(repeat_time):
        raise UsageError(f"repeat={repeat_time}: as published, rows come whole times or a part of them once")
    rows = np.arange(row_count if repeat_time >= 1 else int(row_count * repeat_time))
    if repeat_time > 1:
        rows = np.tile(rows, int(repeat_time))
    if shuffle_seed is not None:
        np.random.default_rng(shuffle_seed).shuffle(rows)
    return rows


def published_weights(row_counts: Sequence[int]) -> list[float]:
    """The weights that `use_data_resampling` gives to data sets: square roots of their rows, after repetition, with sum 1.

    In the published code nothing is drawn with them: what iterates over its class gets numbers of data sets, and the data loader,
    which asks it for rows by number, gets every row once. `MixtureSpec.balance: sqrt` draws rows.
    """
    roots = [math.sqrt(count) for count in row_counts]
    return [root / sum(roots) for root in roots]
