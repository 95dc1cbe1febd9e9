"""Rendered documents as training rows: pictures, questions and answers in the form that people's own rows have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from minimonkey.errors import UsageError
from minimonkey.synthetic.document import make_document
from minimonkey.synthetic.material.typefaces import Split


def write_documents(
    folder: str | os.PathLike[str],
    count: int,
    *,
    kind: str | None = None,
    seed: int = 0,
    split: Split = "train",
    progress: Callable[[int], None] = lambda documents: None,
) -> int:
    """Draw documents and write them with their questions: `rows.jsonl`, one row a document, and `images/`.

    The rows are written last: after an interrupted call the same one begins anew.

    Args:
        folder: where to; made if it isn't there.
        count: how many documents.
        kind: one kind of `minimonkey data synthetic --kind`; None: all.
        seed: the first document's; the same seed draws the same documents.
        split: "train", or "held_out" for typefaces, words and layouts that training never sees.
        progress: gets the number of documents that are done.

    Returns:
        How many questions there are.

    Raises:
        UsageError: the folder has rows already, or can't be written.
    """
    target = Path(folder)
    rows, questions = [], 0
    try:
        if (target / "rows.jsonl").exists():
            raise UsageError(f"{target / 'rows.jsonl'} exists: name another folder")
        (target / "images").mkdir(parents=True, exist_ok=True)
        for number in range(seed, seed + count):
            document = make_document(number, kind, split=split)
            name = f"{document.kind}-{number:06d}.png"
            partial = target / "images" / f".{name}"
            document.picture.save(partial, format="PNG")
            os.replace(partial, target / "images" / name)
            turns: list[dict[str, str]] = []
            for asked in document.questions:
                mark = "" if turns else "<image>\n"
                turns += [{"from": "human", "value": mark + asked.text}, {"from": "gpt", "value": asked.answer}]
            if turns:
                size = {"width": document.picture.width, "height": document.picture.height}
                rows.append({"id": f"{document.kind}-{number}", "image": name} | size | {"conversations": turns})
                questions += len(document.questions)
            progress(number - seed + 1)
        partial = target / ".rows.jsonl"
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(partial, target / "rows.jsonl")
    except OSError as error:
        raise UsageError(f"can't write to {target}: {error.strerror or error}") from error
    return questions
