"""The published packing: its order, cuts and rows as recorded in tests/golden/training, and the losses of these rows."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import minimonkey
from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.data.packed_rows import packed_row
from minimonkey.data.published import published_example
from minimonkey.data.published_packing import published_packs, published_segment, published_share
from minimonkey.errors import DataError, UsageError
from minimonkey.pyramid import PyramidSpec

CHECKPOINTS = ("internvl2-qwen2-56", "minimonkey-internlm2-56")
SCENARIOS = (
    *("plain", "strict", "few_tiles", "small_buffer", "overflow", "overflow_one_tile", "too_long_one_tile", "too_long"),
    *("overflow_pictures_one_tile", "too_long_pictures_one_tile", "rank0_of_2", "rank1_of_2"),
)
COLLATED = [f"{scenario}/{number}" for scenario in ("plain", "strict") for number in range(3)]
MOST_TILES = {"base": 6, "one_tile": 1}
REDUCTIONS = ("token", "sample", "square")


class Recorded:
    """What was recorded on a checkpoint, and what we make of the same rows."""

    def __init__(self, golden, name):
        self.folder = golden / "training"
        self.vlm = minimonkey.load(golden / name, device="cpu", dtype="float32")
        self.record = json.loads((self.folder / name / "packed.json").read_text(encoding="utf-8"))
        self.tensors = load_file(self.folder / name / "packed.safetensors")
        self._segments = {}

    def segment(self, config, row):
        """The segment of a row, made once."""
        key = config, json.dumps(row)
        if key not in self._segments:
            processor = self.vlm.processor
            pyramid = PyramidSpec.plain(1, MOST_TILES[config], tile_px=56)
            example = published_example(row, processor, images=self.folder / "images", max_tokens=4096, pyramid=pyramid)
            self._segments[key] = published_segment(example, processor)
        return self._segments[key]

    def data_sets(self, scenario):
        """For each data set of a scenario the names and the segments of its rows, in the order in which they are read."""
        record = self.record["packing"][scenario]
        rank, ranks = (int(scenario[4]), 2) if scenario.startswith("rank") else (0, 1)
        for number, name in enumerate(record["datasets"]):
            lines = (self.folder / "packed" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = published_share([json.loads(line) for line in lines], number, rank=rank, ranks=ranks)
            yield [(row["id"], self.segment(record["config"], row)) for row in rows]

    def packs(self, scenario):
        """The packs of a scenario, and the names of rows by their ids."""
        settings = self.record["packing"][scenario]["settings"]
        named = list(self.data_sets(scenario))
        packs = published_packs(
            [[segment for _, segment in rows] for rows in named],
            self.vlm.processor,
            max_tokens=settings["max_packed_tokens"],
            max_tiles=settings["num_images_expected"],
            weights=[len(rows) for rows in named],
            max_buffer=settings["max_buffer_size"],
            allow_overflow=settings["allow_overflow"],
            worker=int(scenario[4]) if scenario.startswith("rank") else 0,
            seed=self.record["numpy_seed"],
        )
        return packs, {tuple(segment["input_ids"].tolist()): name for rows in named for name, segment in rows}

    def row(self, key, reduction="token"):
        """A collated row."""
        scenario, number = key.split("/")
        settings = self.record["packing"][scenario]["settings"]
        strict = settings["strict_mode"]
        return packed_row(
            list(self.packs(scenario)[0])[int(number)],
            reduction=reduction,
            pad_to=settings["max_packed_tokens"] if strict else None,
            pad_tiles_to=settings["num_images_expected"] if strict else None,
        )


@pytest.fixture(scope="module", params=CHECKPOINTS)
def recorded(golden, request):
    return Recorded(golden, request.param)


def test_every_scenario_is_here(recorded):
    assert tuple(recorded.record["packing"]) == SCENARIOS
    assert list(recorded.record["collated"]) == COLLATED


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_order(recorded, scenario):
    expected = recorded.record["packing"][scenario]
    packs, names = recorded.packs(scenario)
    for theirs in expected["order"]:
        if "throws" in theirs:
            with pytest.raises(DataError, match="published packing fails where it splits a row that is too long"):
                next(packs)
            return
        strict = expected["settings"]["strict_mode"]
        segments = next(packs)
        ours = packed_row(segments, pad_tiles_to=expected["settings"]["num_images_expected"] if strict else None)
        ids, labels = ours["input_ids"][0], ours["labels"][0]
        lengths = [len(segment["input_ids"]) for segment in segments]
        rows = [names.get(tuple(segment["input_ids"].tolist()), f"cut:{len(segment['input_ids'])}") for segment in segments]
        assert rows == theirs["rows"]
        assert sum(lengths) == len(ids) == theirs["n_tokens"]
        assert len(ours["pixel_values"]) == theirs["n_tiles"]
        assert ours["image_flags"].tolist() == theirs["image_flags"]
        assert (ours["position_ids"][0] == 0).nonzero().flatten().tolist() == theirs["position_ids_restart"]
        assert all((segment["position_ids"].diff() == 1).all() for segment in segments)
        if "input_ids" in theirs:
            assert ids.tolist() == theirs["input_ids"]
            learnt = torch.full_like(ids, NOT_LEARNT)
            for start, stop in theirs["label_spans"]:
                learnt[start:stop] = ids[start:stop]
            assert labels.tolist() == learnt.tolist()
    assert next(packs, None) is None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("key", COLLATED)
def test_collated(recorded, key, reduction):
    ours, record = recorded.row(key, reduction), recorded.record["collated"][key]
    theirs = {name.removeprefix(f"{key}/"): tensor for name, tensor in recorded.tensors.items() if name.startswith(f"{key}/")}
    for name in ("input_ids", "labels", "position_ids", "image_flags"):
        assert torch.equal(ours[name], theirs[name].long()), name
    assert ours["cu_seqlens"].tolist() == record["cu_seqlens"] == theirs["attention_mask"][0].tolist()
    torch.testing.assert_close(ours["loss_weight"], theirs[f"loss_weight_{reduction}"], rtol=1e-6, atol=0)
    empty = ours["input_ids"].numel() - ours["cu_seqlens"].tolist()[len(record["rows"])]
    assert [len(record["rows"]), empty, int((ours["image_flags"] == 0).sum())] == record["statistics"]
    pixels = record["pixel_values"]
    assert list(ours["pixel_values"].shape) == pixels["shape"]
    padding = pixels.get("trailing_zero_tiles", 0)
    assert ours["pixel_values"].flatten(1).any(1).tolist() == [True] * (pixels["shape"][0] - padding) + [False] * padding
    if "mean_u8" in pixels:
        spec = recorded.vlm.processor.image_processor
        mean, std = (torch.tensor(list(of)).view(1, 3, 1, 1) for of in (spec.image_mean, spec.image_std))
        shown = (ours["pixel_values"] * std + mean).mul(255).round().double()
        assert shown.flatten(1).mean(1).tolist() == pytest.approx(pixels["mean_u8"], abs=0.05)


@pytest.mark.parametrize("key", COLLATED)
def test_losses_of_the_examples_give_that_of_the_row(recorded, key):
    """One call of the model for each segment, so that nothing leaks: each loss, and their mean under each reduction."""
    record = recorded.record["collated"][key]
    segments = list(recorded.packs(key.split("/")[0])[0])[int(key.split("/")[1])]
    losses = []
    for segment in segments:
        shown = {"pixel_values": segment["pixel_values"]} if segment["image_flags"].any() else {}
        with torch.inference_mode():
            losses.append(recorded.vlm.model(**packed(segment, "input_ids", "labels"), **shown).loss.item())
    for reduction in REDUCTIONS:
        alone = record["rows_alone"][reduction]
        assert losses == pytest.approx([one["loss"] for one in alone], rel=1e-4, abs=1e-4)
        sums = [packed_row([segment], reduction=reduction)["loss_weight"].sum().item() for segment in segments]
        assert sums == pytest.approx([one["n_label_tokens"] * one["weight"] for one in alone], rel=1e-6)
        mean = sum(weight * loss for weight, loss in zip(sums, losses, strict=True)) / sum(sums)
        assert mean == pytest.approx(record["loss"][reduction], rel=1e-4, abs=1e-4)


def packed(segment, *names):
    return {name: segment[name][None] for name in names}


# -- where nothing was recorded ----------------------------------------------------------------------------------------------------


def made(ids, tiles=1):
    ids = torch.tensor(ids)
    return {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.arange(len(ids)),
        "pixel_values": torch.ones(tiles, 3, 2, 2),
        "image_flags": torch.ones(tiles, dtype=torch.int64),
    }


def test_a_picture_longer_than_a_row_is_an_error_and_no_endless_loop(recorded):
    marks = recorded.vlm.processor
    picture = [marks.start_image_token_id, *[marks.image_token_id] * 4, marks.end_image_token_id]
    packs = published_packs([[made([9, *picture, 9])]], marks, max_tokens=5, max_tiles=4)
    with pytest.raises(DataError, match="never ends where a picture is longer than a row: raise max_tokens"):
        list(packs)


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (10, [[9, 8, "<", "o", "o", ">", 7], ["<", "o", "o", ">", 6]]),  # the end of the second picture is beyond the limit
        (8, [[9, 8, "<", "o", "o", ">", 7], ["<", "o", "o", ">", 6]]),
        (7, [[9, 8, "<", "o", "o", ">", 7], ["<", "o", "o", ">", 6]]),  # its start
        (6, [[9, 8, "<", "o", "o", ">"], ["<", "o", "o", ">", 6]]),  # text, which is lost up to the picture
    ],
)
def test_a_cut_never_falls_into_a_picture(recorded, max_tokens, expected):
    processor = recorded.vlm.processor
    marks = {"<": processor.start_image_token_id, "o": processor.image_token_id, ">": processor.end_image_token_id}
    example = made([marks.get(one, one) for one in (9, 8, "<", "o", "o", ">", 7, "<", "o", "o", ">", 6)], tiles=2)
    rows = list(published_packs([[example]], processor, max_tokens=max_tokens, max_tiles=2, max_buffer=9))
    assert [row[0]["input_ids"].tolist() for row in rows] == [[marks.get(one, one) for one in part] for part in expected]
    assert [row[0]["position_ids"].tolist() for row in rows] == [[*range(len(expected[0]))], [7, 8, 9, 10, 11]]
    assert [len(row[0]["pixel_values"]) for row in rows] == [1, 1]


def test_another_set_takes_the_turn_of_one_that_has_ended(recorded):
    """Which one, numpy's old generator draws, evenly whatever the weights."""
    first = {seed: drawn(recorded.vlm.processor, [[], [made([2])], [made([3])]], [1e12, 1, 1], seed)[0] for seed in range(5)}
    assert first == {seed: [2, 3][np.random.RandomState(seed).choice(2)] for seed in range(5)}
    assert set(first.values()) == {2, 3}


def drawn(processor, sets, weights, seed):
    """The first ids of the rows, one segment each, in the order of drawing."""
    packs = published_packs(sets, processor, max_tokens=1, max_tiles=9, weights=weights, seed=seed)
    return [int(row[0]["input_ids"][0]) for row in packs]


def test_what_has_too_many_tiles_is_dropped(recorded):
    packs = published_packs([[made([9], tiles=5), made([8], tiles=2)]], recorded.vlm.processor, max_tokens=5, max_tiles=4)
    assert [[segment["input_ids"].tolist() for segment in pack] for pack in packs] == [[[8]]]


@pytest.mark.parametrize("weights", [[1], [1, 0]])
def test_one_weight_for_each_data_set(recorded, weights):
    with pytest.raises(UsageError, match=r"weights=\[1.*\] of 2 data sets: expected one above 0 for each"):
        next(published_packs([[], []], recorded.vlm.processor, max_tokens=5, max_tiles=4, weights=weights))
