"""Qwen's published tokenizer, qwen.tiktoken, as a fast tokenizer in memory.

The file has a line for each piece, in base64, with its rank; of all neighbours those are joined whose joint has the lowest rank.
The special tokens stand in the published code (`tokenization_qwen.py`), behind the pieces. Knows no model.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from minimonkey.checkpoints.tokenizers import QWEN2_WORDS
from minimonkey.errors import CheckpointError
from minimonkey.processing.monkey import END, PAD, START, TURN_BEGIN, TURN_END, MonkeyTokenizer

FILE = "qwen.tiktoken"
END_OF_TEXT = "<|endoftext|>"
SPECIAL = (
    *(END_OF_TEXT, TURN_BEGIN, TURN_END),
    *(f"<|extra_{number}|>" for number in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", START, END, PAD),
)
"""In the order of their ids, which follow those of the pieces."""


def monkey_tokenizer(folder: Path, *, vocabulary: int, image_tokens: int, model_max_length: int) -> MonkeyTokenizer:
    """The tokenizer of a folder as Monkey and Qwen-VL were published.

    Args:
        folder: has qwen.tiktoken.
        vocabulary: rows of the model's embeddings.
        image_tokens: how many ids stand for a picture.
        model_max_length: the longest sequence.

    Raises:
        CheckpointError: the file is missing or broken, or has more tokens than the model.
    """
    file = folder / FILE
    ranks = _ranks(file)
    if len(ranks) + len(SPECIAL) > vocabulary:
        raise CheckpointError(f"{file}: {len(ranks) + len(SPECIAL)} tokens with special ones, the model has {vocabulary}")
    backend = Tokenizer(models.BPE({_text(piece): rank for piece, rank in ranks.items()}, _merges(ranks), ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    settings: dict[str, Any] = {"start_image_token": START, "end_image_token": END, "context_image_token": PAD}
    return MonkeyTokenizer(
        tokenizer_object=backend,
        **settings,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        image_tokens=image_tokens,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _ranks(file: Path) -> dict[bytes, int]:
    """Each piece and its rank, which is its id."""
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(piece, validate=True): int(rank) for piece, rank in lines}
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; get the folder anew") from None
    except (OSError, ValueError, binascii.Error) as error:
        raise CheckpointError(f"{file}: is broken ({' '.join(str(error).split())[:120]}); get the folder anew") from error
    if sorted(ranks.values()) != list(range(len(lines))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{file}: its ranks have holes, or it lacks single bytes; get the folder anew")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, in the order of that piece's rank."""
    return [
        (_text(piece[:cut]), _text(piece[cut:]))
        for piece in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(piece))
        if piece[:cut] in ranks and piece[cut:] in ranks
    ]


def _alphabet() -> dict[int, str]:
    """The letter that stands for each byte in byte-level tokenizers: its own where that can be seen, else one from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


_LETTERS = _alphabet()


def _text(piece: bytes) -> str:
    return "".join(map(_LETTERS.__getitem__, piece))
