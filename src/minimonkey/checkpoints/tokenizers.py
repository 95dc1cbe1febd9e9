"""The tokenizer of a published folder, built in memory. Which ids did the published code give a text?

The published tokenizers are slow classes, InternLM2's is remote code. Here their rules become those of a fast one. Only `json` and
sentencepiece read the files, and texts are held against sentencepiece before the result is trusted. Knows no model, no template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import TokenizersBackend

from minimonkey.errors import CheckpointError
from minimonkey.processing.tokenizers import SPACE, LlamaSentencePieceTokenizer, SentencePieceTokenizer

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
IMAGE_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
"""The names that the processor asks for; InternVL's code has these strings as constants (constants.py)."""
QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where Qwen2 cuts text before it merges bytes: part of the format, as in the tokenizer.json of Qwen2, Qwen2.5 and Qwen3."""
PROBES = (
    "", " ", "a", "Hello world", " Hello  world ", "\ta\r\n\n  b\n", "x" * 40, "1234567890 18.54", "A.B,C!d?(e)[f]{g}",
    *(f"0{character}\n" for character in "\u00e9\u0301\uff21\ufb01\u2460\u3000\u00a0\u200b\u2581\u56fe\U0001f642"),
)  # fmt: skip
"""Texts that a normalisation, stripped spaces or a unigram model would give other ids."""


def published_tokenizer(folder: Path, settings: dict[str, Any]) -> TokenizersBackend:
    """The tokenizer of a folder in InternVL's published layout.

    It gives the ids of the published slow classes: InternLM2's and Phi-3's from tokenizer.model, Qwen2's and Qwen3's from
    vocab.json and merges.txt, or tokenizer.json. Added tokens have the ids that tokenizer_config.json and added_tokens.json give
    them, pieces of the vocabulary are renamed where these say so, and only the tokens that the files call special are left out by
    `skip_special_tokens`. A string that was renamed, such as `[UNUSED_TOKEN_145]`, is plain text. The processor's image tokens are
    named, the padding token and `model_max_length` are the published ones. Nothing is written.

    Args:
        folder: with the tokenizer's files.
        settings: those of its config.json.

    Returns:
        A fast tokenizer.

    Raises:
        CheckpointError: one line that names the file: missing or broken; ids with holes, taken twice or beyond the model's
            vocabulary; a sentencepiece model whose ids these rules don't give; an unknown language model.
    """
    folder = Path(folder)
    with _reading(folder / "config.json"):
        llm = settings["llm_config"]
        (architecture, *_), size = llm["architectures"], int(llm["vocab_size"])
    if architecture not in _FAMILIES:
        raise CheckpointError(
            f"{folder / 'config.json'}: the language model is {architecture}; a tokenizer is known for {', '.join(_FAMILIES)}"
        )
    tokens = _published_tokens(folder)
    tokenizer = _FAMILIES[architecture](folder, tokens)
    if len(tokenizer) > size:
        raise CheckpointError(
            f"{tokens.file}: the tokenizer has {len(tokenizer)} tokens, the model only {size}; get the folder anew"
        )
    return tokenizer


# -- what the JSON files say -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedTokens:
    """Tokens beside the vocabulary."""

    file: Path
    """tokenizer_config.json, for messages."""
    settings: dict[str, Any]
    """What it says."""
    named: dict[str, str]
    """Role, such as `bos_token`, to string."""
    additional: list[str]
    """Special without a role."""
    added: dict[int, AddedToken]
    """Found in a text before anything else is done to it; some rename a piece of the vocabulary."""

    @property
    def special(self) -> set[str]:
        return {*self.named.values(), *self.additional}


def _published_tokens(folder: Path) -> PublishedTokens:
    file, roles, numbers = (folder / f"{name}.json" for name in ("tokenizer_config", "special_tokens_map", "added_tokens"))
    settings = _object(file)
    merged = (_object(roles) if roles.is_file() else {}) | settings
    with _reading(file):
        named = {role: _added_token(merged[role]).content for role in ROLES if merged.get(role) is not None}
        additional = [_added_token(token).content for token in merged.get("additional_special_tokens") or []]
        added = {int(number): _added_token(token) for number, token in settings.get("added_tokens_decoder", {}).items()}
    if numbers.is_file():
        known = {token.content: number for number, token in added.items()}
        for content, number in _object(numbers).items():
            if not isinstance(number, int) or known.get(content, number) != number or str(added.get(number, content)) != content:
                raise CheckpointError(
                    f"{numbers}: {content!r} has the id {number}, {file.name} says otherwise; get the folder anew"
                )
            added.setdefault(number, _added_token(content))
    for content in set(IMAGE_TOKENS.values()) - {token.content for token in added.values()}:
        raise CheckpointError(f"{file}: there is no {content} among the added tokens; get the folder anew")
    if "pad_token" not in named:
        raise CheckpointError(f"{file}: names no pad_token; get the folder anew")
    return PublishedTokens(file, settings, named, additional, added)


def _added_token(token: str | dict[str, Any]) -> AddedToken:
    """As written in a file; `normalized` has no meaning for the slow classes."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False)
    sides = {side: bool(token.get(side)) for side in ("lstrip", "rstrip", "single_word")}
    return AddedToken(token["content"], **sides, normalized=False)


# -- one function for each family --------------------------------------------------------------------------------------------------


def _internlm2(folder: Path, tokens: PublishedTokens) -> TokenizersBackend:
    return _finished(_pieces(folder / "tokenizer.model", tokens), tokens, SentencePieceTokenizer, bos=True)


def _llama(folder: Path, tokens: PublishedTokens) -> TokenizersBackend:
    if tokens.settings.get("legacy") is not False:
        raise CheckpointError(f"{tokens.file}: legacy isn't false; only Llama tokenizers without legacy rules are read")
    backend = _pieces(folder / "tokenizer.model", tokens)
    backend.normalizer = normalizers.Replace(" ", SPACE)
    return _finished(backend, tokens, LlamaSentencePieceTokenizer, bos=True)


def _qwen2(folder: Path, tokens: PublishedTokens) -> TokenizersBackend:
    vocabulary, merges, file = _byte_pairs(folder)
    with _reading(file):
        if any(len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys() for pair in merges):
            raise ValueError("it merges what the vocabulary doesn't have")
    vocabulary = _renamed(vocabulary, tokens)
    backend = Tokenizer(models.BPE(vocabulary, [(first, second) for first, second in merges]))
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return _finished(backend, tokens, TokenizersBackend, bos=False)


def _byte_pairs(folder: Path) -> tuple[dict[str, int], list[tuple[str, ...]], Path]:
    """Vocabulary, merges in their order and the file of the merges."""
    file = folder / "vocab.json"
    if not file.is_file() and (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        content = _object(file)
        with _reading(file):
            vocabulary = dict(content["model"]["vocab"])
            merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in content["model"]["merges"]]
    else:
        vocabulary, file = _object(file), folder / "merges.txt"
        with _reading(file):
            lines = file.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[lines[0].startswith("#version") :] if line.strip()]
    return vocabulary, merges, file


_FAMILIES: dict[str, Callable[[Path, PublishedTokens], TokenizersBackend]] = {
    "InternLM2ForCausalLM": _internlm2,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen2,
    "Phi3ForCausalLM": _llama,
    "LlamaForCausalLM": _llama,
}


# -- sentencepiece -----------------------------------------------------------------------------------------------------------------


def _pieces(file: Path, tokens: PublishedTokens) -> Tokenizer:
    """A byte-pair model with the vocabulary of a tokenizer.model, that gives the ids that sentencepiece gives."""
    model = SentencePieceProcessor()
    with _reading(file):
        model.LoadFromSerializedProto(file.read_bytes())
        if not len(model):
            raise ValueError("it has no pieces")
    pieces = [model.id_to_piece(number) for number in range(len(model))]
    vocabulary = _renamed({piece: number for number, piece in enumerate(pieces)}, tokens)
    merges = _merges([n for n in range(len(pieces)) if vocabulary.get(pieces[n]) == n], pieces, model)
    unknown = next(piece for piece, number in vocabulary.items() if number == model.unk_id())
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", SPACE)
    opened = model.encode("a", out_type=str)[0].startswith(SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if opened else spaces
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    for text in PROBES:
        ours, theirs = backend.encode(text).ids, model.encode(text)
        if ours != theirs:
            raise CheckpointError(
                f"{file}: {text!r} would be {ours} instead of {theirs}; only byte-pair models without normalisation are read"
            )
    return backend


def _merges(numbers: list[int], pieces: list[str], model: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, best piece first: sentencepiece joins the two neighbours of the best score."""
    unmerged = (model.is_control, model.is_unknown, model.is_byte, model.is_unused)
    ranked = sorted((n for n in numbers if not any(kind(n) for kind in unmerged)), key=model.get_score, reverse=True)
    known = {pieces[n] for n in ranked}
    return [
        (piece[:cut], piece[cut:])
        for piece in map(pieces.__getitem__, ranked)
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]


# -- vocabulary and added tokens ---------------------------------------------------------------------------------------------------


def _renamed(vocabulary: dict[str, int], tokens: PublishedTokens) -> dict[str, int]:
    """The vocabulary, with another name for each piece whose id an added token has."""
    with _reading(tokens.file):
        names = {number: piece for piece, number in vocabulary.items()}
        if names.keys() != set(range(len(vocabulary))):
            raise ValueError(f"the ids of the {len(vocabulary)} pieces beside it have holes, or pieces stand there twice")
        names |= {number: token.content for number, token in tokens.added.items() if number in names}
        renamed = {names[number]: number for number in range(len(names))}
        if len(renamed) != len(names):
            raise ValueError("it renames a piece to the name of another")
    return renamed


def _finished(backend: Tokenizer, tokens: PublishedTokens, kind: type[TokenizersBackend], *, bos: bool) -> TokenizersBackend:
    """With the added tokens on their ids and every name set. `bos`: whether the family puts BOS before a text by default."""
    known = {backend.token_to_id(content): _added_token(content) for content in tokens.special}
    added = {number: token for number, token in known.items() if number is not None} | tokens.added
    for token in added.values():
        token.special = token.content in tokens.special
    backend.add_tokens([added[number] for number in sorted(added)])
    for number, token in sorted(added.items()):
        if backend.token_to_id(token.content) != number:
            raise CheckpointError(
                f"{tokens.file}: the id {number} of {token.content!r} leaves a hole or is its second; get the folder anew"
            )
    for content in sorted(tokens.special - backend.get_vocab().keys()):
        raise CheckpointError(f"{tokens.file}: the special token {content!r} has no id; get the folder anew")
    return kind(
        tokenizer_object=backend,
        **tokens.named,
        **IMAGE_TOKENS,
        extra_special_tokens=tokens.additional,
        add_bos_token=tokens.settings.get("add_bos_token", bos),
        add_eos_token=tokens.settings.get("add_eos_token", False),
        model_max_length=tokens.settings.get("model_max_length"),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


# -- files -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Whatever is wrong with what a file says becomes one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; get the folder anew") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise CheckpointError(f"{file}: is broken ({line}); get the folder anew") from error


def _object(file: Path) -> dict[str, Any]:
    with _reading(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, got {type(content).__name__}")
    return content
