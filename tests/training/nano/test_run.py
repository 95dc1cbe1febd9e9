"""Evaluation: figures are means over the batches that have them, and free reading is compared with what was asked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minimonkey.training.nano.rows import Turn, make_row
from minimonkey.training.nano.run import evaluate, read
from minimonkey.training.nano.trainer import Trainer


class Said(torch.nn.Module):
    """Losses that say what the batch says."""

    def __init__(self, config):
        super().__init__()
        self.weight, self.config = torch.nn.Parameter(torch.ones(2, 2)), config

    def forward(self, batch):
        return self.weight.sum() * 0 + batch["loss"], {key: batch[key] for key in batch.keys() - {"loss", "tiles"}}


@pytest.fixture
def said(recipe):
    """Of two batches only the first says how many characters were right."""
    tiles = torch.zeros(3, 1)
    first = {"tiles": tiles, "loss": torch.tensor(1.0), "text_loss": torch.tensor(4.0), "points_right": torch.tensor(0.5)}
    return [first, {"tiles": tiles, "loss": torch.tensor(2.0), "text_loss": torch.tensor(2.0)}]


def test_what_few_batches_say_is_their_mean(recipe, said):
    figures = evaluate(Said(recipe(stage="characters")), said, batches=2)
    assert figures == {"held_out_text_loss": 3.0, "held_out_points_right": 0.5}


def test_what_few_batches_of_a_step_say_is_their_mean(recipe, said, tmp_path):
    config = recipe(mixed_precision="no", batches_per_step=2)
    trainer = Trainer(Said(config), said, config, tmp_path)
    assert trainer._gradients(said) == {"tiles": 6.0, "loss": 1.5, "text_loss": 3.0, "points_right": 0.5}


def test_only_the_first_question_of_a_picture_is_read(small):
    """Rows of one turn and of two: what should be read is the answer to the first question, without what ends it."""
    asked = [[("Who?", "abc")], [("What is the total?", "12.50"), ("Where?", "unanswerable")]]
    rng = np.random.default_rng(0)
    rows = []
    for turns in asked:
        turns = [Turn(question, answer, np.full((len(answer), 3), -1, np.int32)) for question, answer in turns]
        rows.append(make_row(small, 1, turns, 0.0, rng))
    shape = len(rows), max(len(row.input_ids) for row in rows)
    batch = {"input_ids": torch.zeros(shape, dtype=torch.long), "labels": torch.full(shape, -100)}
    batch["tiles"] = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    for index, row in enumerate(rows):
        for key in ("input_ids", "labels"):
            batch[key][index, : len(row.input_ids)] = torch.from_numpy(getattr(row, key))
    seen = {}

    def generate(input_ids, max_new_tokens, **rest):
        seen["longest"] = max_new_tokens
        seen["prompts"] = [small.tokenizer.decode(ids) for ids in input_ids]
        said = [small.encode_answer(turns[0][1]) for turns in asked]
        said = [ids[:6] + [small.tokenizer.pad_token_id] * (6 - len(ids)) for ids in said]
        return torch.cat((input_ids, torch.tensor(said)), dim=1)

    losses = SimpleNamespace(model=SimpleNamespace(generate=generate), processor=small)
    assert read(losses, batch) == (["abc", "12.50"], ["abc", "12.50"])
    assert seen["longest"] == 5 + 9
    assert "Who?" in seen["prompts"][0] and "total?" in seen["prompts"][1] and "Where?" not in seen["prompts"][1]
