"""Orders, lengths and weights against what the published code gave, on two checkpoints under thirteen meta files."""

import json
from functools import cache
from pathlib import Path

import pytest

from minimonkey.checkpoints.tokenizers import published_tokenizer
from minimonkey.data.frame_choice import published_frame_indices
from minimonkey.data.length_grouping import length_grouped_order, published_lengths
from minimonkey.data.mixture import Mixture
from minimonkey.data.published_order import published_weights
from minimonkey.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden"
TRAINING = GOLDEN / "training"
RECORDS = {code: json.loads((TRAINING / "mixture" / f"mixture_{code}.json").read_text()) for code in ("internvl", "minimonkey")}
METAS = json.loads((TRAINING / "mixture" / "metas.json").read_text())
CASES = [
    (code, checkpoint, meta)
    for code, record in RECORDS.items()
    for checkpoint, metas in record["checkpoints"].items()
    for meta in metas
]
CODES = {"internvl": "internvl", "minimonkey": "mini-monkey"}
TOKENS_PER_TILE = 4


@cache
def tokenizer_of(checkpoint: str):
    folder = GOLDEN / checkpoint
    return published_tokenizer(folder, json.loads((folder / "config.json").read_text()))


def mixture_of(code: str, meta: str, tmp_path: Path) -> Mixture:
    file = tmp_path / f"{meta}.json"
    file.write_text(json.dumps(METAS[meta.removesuffix("_resampling")]))
    return Mixture.read(file, root=str(TRAINING), as_published=CODES[code])


@pytest.mark.parametrize(("code", "checkpoint", "meta"), CASES, ids="-".join)
def test_recorded_mixture(code, checkpoint, meta, tmp_path):
    record = RECORDS[code]
    due = record["checkpoints"][checkpoint][meta]
    if "throws" in due:
        with pytest.raises(UsageError, match=f"{meta}.json: A: ") as error:
            mixture_of(code, meta, tmp_path)
        assert "\n" not in str(error.value)
        return
    mixture = mixture_of(code, meta, tmp_path)
    assert len(mixture) == due["total"]
    assert [each.name for each in mixture.spec.sets] == list(due["datasets"])
    draws = [mixture.draw(number) for number in range(len(mixture))]
    lengths = []
    for number, (each, expected) in enumerate(zip(mixture.spec.sets, due["datasets"].values(), strict=True)):
        rows = [mixture.row(draw) for draw in draws if draw.data_set == number]
        assert [row["id"] for row in rows] == expected["order"] and len(rows) == expected["n"]
        most_tiles = each.max_tiles or record["settings"]["max_dynamic_patch"]
        assert most_tiles == expected["max_dynamic_patch"]
        thumbnail = record["settings"]["use_thumbnail"]
        estimated = published_lengths(
            rows,
            count_tokens=lambda text: len(tokenizer_of(checkpoint)(text).input_ids),
            tokens_per_tile=TOKENS_PER_TILE,
            most_tiles=most_tiles + thumbnail,
        )
        assert estimated == expected["estimated_length"]
        lengths += estimated
    for case in due.get("length_grouped", ()):
        order = length_grouped_order(lengths, batch_rows=case["batch_size"], world_size=case["world_size"], seed=case["seed"])
        assert order == case["order"]
    if "weights" in due:
        assert published_weights(mixture.draws_per_epoch) == pytest.approx(due["weights"], rel=1e-12)


def test_all_kinds_of_records_were_seen():
    assert len(CASES) == 52
    assert sum("throws" in RECORDS[code]["checkpoints"][checkpoint][meta] for code, checkpoint, meta in CASES) == 20
    assert sum("weights" in RECORDS[code]["checkpoints"][checkpoint][meta] for code, checkpoint, meta in CASES) == 8


@pytest.mark.parametrize("code", RECORDS)
def test_recorded_length_grouping(code):
    for case in RECORDS[code]["length_grouped_made_up"]:
        due = case.pop("order")
        order = length_grouped_order(
            case["lengths"], batch_rows=case["batch_size"], world_size=case["world_size"], seed=case["seed"]
        )
        assert order == due


def test_what_the_published_resampling_iterates_over():
    """Numbers of data sets, as many as there are rows: the fault that `Mixture` doesn't have."""
    import torch

    due = RECORDS["internvl"]["checkpoints"]["internvl2-qwen2-56"]["plain_resampling"]
    weights = torch.tensor(due["weights"], dtype=torch.float64)
    drawn = torch.multinomial(weights, due["total"], replacement=True, generator=torch.Generator().manual_seed(5))
    assert drawn.tolist() == due["own_iteration_seed5"] and max(due["own_iteration_seed5"]) == 2


@pytest.mark.parametrize("code", RECORDS)
def test_recorded_frames(code):
    for case in RECORDS[code].get("frame_indices", ()):
        indices = published_frame_indices(case["num_frames"], case["video_length"], case["sample"], fps=case["input_fps"])
        assert indices == case["indices"]
    assert len(RECORDS["internvl"]["frame_indices"]) == 18


@pytest.mark.parametrize("sample", ["rand", "fps", "fps0", "fps-1", "fps1x", "Middle"])
def test_other_ways_to_choose_frames_are_refused(sample):
    with pytest.raises(UsageError, match="expected 'middle', or 'fps' and a number"):
        published_frame_indices(8, 100, sample)
    with pytest.raises(UsageError, match="expected numbers above 0"):
        published_frame_indices(0, 100)
