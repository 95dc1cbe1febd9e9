"""A Phi-3 tokenizer's files, made here, and the rules of the slow class that the published code reads them with."""

import io
import json
import random
import re
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
PHI3_TOKENS = ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|system|>", "<|user|>"]
STRIPPING = {"</s>", *PHI3_TOKENS} - {"<|endoftext|>"}
SPECIAL = ["<s>", "<|endoftext|>", "<unk>", *IMAGE_TOKENS]


def sentences(seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    words = "the cat sat on a mat user end system assistant unk img box total 12 3.50 図 receipt  double   spaces ----".split(" ")
    return [" ".join(chance.choices(words, k=9)) for _ in range(400)]


def train_pieces(**changes) -> bytes:
    """A tokenizer.model with the rules of Llama's, some changed."""
    model = io.BytesIO()
    rules = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    rules |= {"allow_whitespace_only_pieces": True, "vocab_size": 420, "num_threads": 1, "minloglevel": 2, **changes}
    SentencePieceTrainer.train(sentence_iterator=iter(sentences()), model_writer=model, **rules)
    return model.getvalue()


def write_phi3_tokenizer(folder: Path) -> Path:
    """Named and flagged as InternVL2-4B's files: role tokens strip on the right and are not among the special ones."""
    (folder / "tokenizer.model").write_bytes(train_pieces())
    strings = dict(enumerate(["<unk>", "<s>", "</s>"])) | dict(enumerate(PHI3_TOKENS + IMAGE_TOKENS, start=420))
    flags = {"lstrip": False, "normalized": False, "single_word": False}
    config = {
        "added_tokens_decoder": {
            str(n): {"content": token, "rstrip": token in STRIPPING, "special": token != "</s>"} | flags
            for n, token in strings.items()
        },
        "additional_special_tokens": IMAGE_TOKENS,
        "bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>",
        "legacy": False, "model_max_length": 8192, "tokenizer_class": "LlamaTokenizer", "sp_model_kwargs": {},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({token: n for n, token in strings.items() if n >= 420}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": [{"content": "<img>"}]}))
    llm = {"architectures": ["Phi3ForCausalLM"], "vocab_size": 434}
    (folder / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "llm_config": llm}))
    return folder


class SlowLlama:
    """What transformers 4.37.2's LlamaTokenizer does with `legacy=False`, said anew."""

    def __init__(self, folder: Path):
        self.model = SentencePieceProcessor(model_proto=(folder / "tokenizer.model").read_bytes())
        added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        self.added = {token["content"]: int(number) for number, token in added.items()}
        self.split = re.compile(f"({'|'.join(map(re.escape, self.added))})")

    def pieces(self, text: str) -> list[str]:
        """Without the dummy prefix: the line break before the text has it, and is never merged."""
        return self.model.encode("\n" + text, out_type=str)[2:]

    def segment(self, text: str) -> list[str]:
        if not text.startswith(("▁", " ")):
            return self.pieces(text)
        return self.pieces("<unk>" + text)[len(self.pieces("<unk>")) :]

    def tokens(self, text: str) -> list[str]:
        if not text:
            return []
        tokens, strip = [], False
        for number, part in enumerate(self.split.split("▁" + text.replace("▁", " "))):
            if number % 2:
                tokens.append(part)
                strip = part in STRIPPING
            else:
                tokens += self.segment(part.lstrip() if strip else part)
        return tokens[1:] if tokens[:1] == ["▁"] and tokens[1:2] and tokens[1] in SPECIAL else tokens

    def ids(self, text: str) -> list[int]:
        return [self.added.get(token, self.model.piece_to_id(token)) for token in self.tokens(text)]

    def decode(self, text: str) -> str:
        """Of a text's own ids, special tokens left out; no text here has bytes that are no UTF-8."""
        parts, run = [], []
        for token in [*(t for t in self.tokens(text) if t not in SPECIAL), None]:
            if token is None or token in self.added:
                run[:1] = [token[1:] if token.startswith("▁") else token for token in run[:1]]
                parts += [re.sub("(<0x..>)+", utf8, "".join(run)).replace("▁", " "), token or ""]
                run = []
            else:
                run.append(token)
        return " ".join(part for part in parts if part)


def utf8(match: re.Match) -> str:
    return bytes.fromhex(re.sub("<0x|>", "", match[0])).decode()
