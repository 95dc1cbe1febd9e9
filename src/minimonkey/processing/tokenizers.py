"""Fast tokenizers with the habits of the slow sentencepiece classes that InternLM2's and Phi-3's models were trained with.

`minimonkey.register()` makes them known to `AutoTokenizer`. Knows no files: `checkpoints.tokenizers` builds them.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from transformers import TokenizersBackend

SPACE = "\u2581"
"""What sentencepiece writes for a space."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class SentencePieceTokenizer(TokenizersBackend):
    """A fast tokenizer that decodes as sentencepiece does: each byte that is no UTF-8 is one U+FFFD, those beside it are text."""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        parts = (bytes.fromhex(t[3:5]) if _BYTE.fullmatch(t) else t.replace(SPACE, " ").encode() for t in tokens)
        return re.sub("[\udc80-\udcff]", "\ufffd", b"".join(parts).decode(errors="surrogateescape"))

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        return self.convert_tokens_to_string(self._tokens(token_ids, skip_special_tokens))

    def _tokens(self, token_ids: int | list[int], skip_special_tokens: bool) -> list[str]:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        return [token for token in tokens if token is not None]


class LlamaSentencePieceTokenizer(SentencePieceTokenizer):
    """The ids of transformers 4.37.2's slow LlamaTokenizer with `legacy=False`, as InternVL2-4B (Phi-3) was trained and published.

    * Each `▁` of a text is a space, and one `▁` is put before the whole text; nothing is put before what follows an added token.
    * So a text that starts with an added token starts with a lone `▁`. It is dropped if that token is among `all_special_tokens`:
      the role tokens of Phi-3 (`<|user|>`, `<|end|>`...) aren't, and each of its prompts has the ids of `<s>`, `▁`, `<|system|>`.
    * The empty text is the BOS token alone. Offsets count the `▁` that was put before the text.
    * Decoding drops the first `▁`. With `skip_special_tokens`, added tokens that aren't special are set off by spaces, and the
      first `▁` after each is dropped too.

    The slow class encodes a segment that starts with a space behind `<unk>` and cuts that off, which guards against models that
    strip spaces: `published_tokenizer` refuses those, and where no piece holds `>▁` it gives the same ids.
    """

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        return super()._encode_plus(self.opened(text), self.opened(text_pair), **kwargs)

    def opened(self, text: Any) -> Any:
        """A text, or texts nested as transformers allows, with what is put before them."""
        if isinstance(text, (list, tuple)):
            return type(text)(map(self.opened, text))
        if not text:
            return text
        text = text.replace(SPACE, " ")
        first = max((token for token in self.get_added_vocab() if text.startswith(token)), key=len, default=None)
        return text if first in self.all_special_tokens else SPACE + text

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        opening = [tokens[0].removeprefix(SPACE)] if tokens else []
        return super().convert_tokens_to_string(opening + tokens[1:])

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        if not skip_special_tokens:
            return super()._decode(token_ids)
        runs = itertools.groupby(self._tokens(token_ids, True), self.get_added_vocab().__contains__)
        texts = (" ".join(run) if added else self.convert_tokens_to_string(list(run)) for added, run in runs)
        return " ".join(filter(None, texts))
