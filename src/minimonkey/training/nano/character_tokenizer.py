"""A tokenizer of single characters, for the embedded model and for tests. Which id has a character?

Every text decodes to what was encoded (in NFC): what the alphabet lacks becomes its UTF-8 bytes, a token each.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<ref>", "</ref>", "<box>", "</box>")


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each character of `alphabet` (duplicates count once), 256 byte tokens and the special tokens.

    Special tokens have the first ids, then bytes, then characters in the order of `alphabet`. `<|im_end|>` ends a text, `<pad>`
    pads on the left, nothing is put before a text. The image tokens have the names that InternVL's processor asks for.
    """
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
