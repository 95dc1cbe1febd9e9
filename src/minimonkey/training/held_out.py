"""How good is the network in training on rows that it isn't trained on: the loss, and answers that it really gives.

Processes take turns at the rows and sum up what they saw.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import encode
from minimonkey.data.readers import read_conversations
from minimonkey.errors import UsageError
from minimonkey.evaluation.metrics import anls
from minimonkey.inference.vision_language_model import VisionLanguageModel
from minimonkey.training.batches import nothing_to_learn
from minimonkey.training.config import EvaluationConfig, TuningRecipe
from minimonkey.training.loop import Look
from minimonkey.training.objective import AnswerLoss, batch_weight

MORE_TOKENS = 16
"""How much longer than the expected answer one may be; whatever is longer is wrong anyway."""


class HeldOut:
    """Rows of an evaluation, and one process's turn at them."""

    def __init__(self, config: EvaluationConfig, recipe: TuningRecipe, processor: Any, rank: int = 0, ranks: int = 1) -> None:
        """Read and check all rows. Raises DataError, UsageError."""
        self.config, self.recipe, self.processor, self.ranks = config, recipe, processor, ranks
        self.pyramid = dict(recipe.pyramid) or None
        rows = list(islice(read_conversations(config.rows, images=config.images), config.limit))
        self.turns = -(-len(rows) // ranks)
        self.rows = rows[rank::ranks]
        for row in rows if config.metric != "loss" else ():
            roles = [message.role for message in row.messages if message.role != "system"]
            if roles != ["user", "assistant"] * (len(roles) // 2) or any(medium.kind == "video" for medium in row.media):
                raise UsageError(
                    f"evaluation: metric={config.metric!r} asks about pictures, question and answer by turns; {row.where} is "
                    "something else: leave it out, or use loss"
                )

    def look(self, objective: Any, bare: AnswerLoss, reduce: Callable[[torch.Tensor], torch.Tensor]) -> Look:
        """Figures of all rows, and the score of the metric.

        Args:
            objective: what is trained, as accelerate has wrapped it.
            bare: the same without its wrapper.
            reduce: sums a tensor over processes.
        """
        objective.eval()
        loss, weight = reduce(self._loss(objective, next(bare.parameters()).device)).tolist()
        figures = {"held_out_loss": loss / max(weight, 1e-30)}
        if self.config.metric == "loss":
            return Look(figures, -figures["held_out_loss"])
        right, rows = reduce(self._answers(bare).to(next(bare.parameters()).device)).tolist()
        figures[f"held_out_{self.config.metric}"] = right / rows
        return Look(figures, right / rows)

    @torch.no_grad()
    def _loss(self, objective: Any, device: torch.device) -> torch.Tensor:
        """The sum of weighted losses, and that of weights: float64 [2]."""
        sums = torch.zeros(2, dtype=torch.float64)
        for turn in range(self.turns):  # as many for each process, as they may need each other
            batch = self._batch(self.rows[turn]) if turn < len(self.rows) else nothing_to_learn(self.processor)
            weight = batch_weight(batch, self.recipe.reduction)
            loss = objective({name: tensor.to(device) for name, tensor in batch.items()}, torch.ones((), device=device))
            sums += torch.tensor([float(loss), float(weight)], dtype=torch.float64)
        return sums.to(device, torch.float32)

    def _batch(self, row: Conversation) -> dict[str, torch.Tensor]:
        example = encode(row, self.processor, max_tokens=self.recipe.max_tokens, pyramid=self.pyramid)
        batch = {name: value[None] for name, value in example.items() if name in ("input_ids", "labels")}
        return batch | {name: example[name] for name in ("pixel_values", "level_tiles") if name in example}

    def _answers(self, bare: AnswerLoss) -> torch.Tensor:
        """The sum of the rows' scores, and their number: float32 [2]."""
        vlm = VisionLanguageModel(bare.network, self.processor)
        scores = [self._score(vlm, row) for row in self.rows]
        return torch.tensor([sum(scores), len(scores)], dtype=torch.float32)

    def _score(self, vlm: VisionLanguageModel, row: Conversation) -> float:
        """How right the answer to the last question of a row is, after those before it."""
        said = ["<image>".join(message.texts) for message in row.messages if message.role != "system"]
        system = next((message.text for message in row.messages if message.role == "system"), None)
        *earlier, question, expected = said
        history = list(zip(earlier[::2], earlier[1::2], strict=True))
        limit = 2 * len(self.processor.encode_answer(expected)) + MORE_TOKENS
        pictures = [medium.source for medium in row.media]
        answer = vlm.ask(pictures, question, system=system, history=history, pyramid=self.pyramid, max_new_tokens=limit)
        if self.config.metric == "anls":
            return anls(answer.text, [expected])
        return float(answer.text.split() == expected.split())
