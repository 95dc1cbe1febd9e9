"""`minimonkey extract`: fields of one document as JSON. The fields go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimonkey.cli.ask import names_a_picture
from minimonkey.cli.options import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    MaxNewTokensOption,
    ModelOption,
    PagesOption,
    PlainOption,
    PyramidOption,
    QuantizeOption,
    SystemOption,
    pyramid_changes,
    read_pages,
)
from minimonkey.errors import ExtractionError, UsageError

if TYPE_CHECKING:
    from minimonkey.inference import Extraction

SchemaOption = Annotated[Path | None, typer.Option("--schema", metavar="FILE", help="A JSON schema of what shall be read.")]
FieldsOption = Annotated[
    str | None, typer.Option("--fields", metavar="FIELDS", help='Its short form, such as "total:number, items:[{name}]".')
]


def extract(
    sources: Annotated[list[str], typer.Argument(metavar="PICTURE...", hidden=True)],
    schema: SchemaOption = None,
    fields: FieldsOption = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="What the model is asked, in place of the fields in words.")
    ] = None,
    model: ModelOption = None,
    pages: PagesOption = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Also confidence, boxes and the model's text.")] = False,
) -> None:
    """Read fields of a document, as JSON.

    Pictures and pages are those of one document, and read together; `minimonkey batch --fields` makes a row of each. Types of the
    short form are string, number, integer, boolean, date, time, box, choices (cash|card), lists in [] and objects in {}; a field
    that isn't found is null. The answer always fits; whether it is right, its confidence tells in part.

    \b
    Examples:
      minimonkey extract examples/receipt.png --fields "total:number, date:date"
      minimonkey extract invoice.pdf --pages 1-2 --fields "number, items:[{name, price:number}]" --json
      minimonkey extract --model OpenGVLab/InternVL3-1B --schema invoice.schema.json invoice.png
    """
    wanted = schema_given(schema, fields)
    if wanted is None:
        raise UsageError('nothing to read: give --fields, such as --fields "total:number, date:date", or --schema FILE')
    for source in sources:
        if not names_a_picture(source):
            raise UsageError(f"{source!r} is no picture: name pictures or PDFs; a question is --question")
    pictures = read_pages(sources, pages)

    from transformers.utils.logging import disable_progress_bar

    from minimonkey.inference import load
    from minimonkey.inference.extract import Fields

    described = Fields.of(wanted)  # what is wrong with it shows before a model is loaded
    disable_progress_bar()
    vlm = load(model, device=device, dtype=dtype, quantize=quantize, engine=engine)
    settings: dict[str, Any] = {"pyramid": pyramid_changes(pyramid, plain) or None, "system": system}
    (found,) = vlm.extractions([pictures], described, [question], max_new_tokens=max_new_tokens, **settings)
    if as_json:
        print(json.dumps(as_dict(found), ensure_ascii=False))
    elif found.error is None:
        print(json.dumps(found.data, ensure_ascii=False))
    if found.error is not None:
        raise ExtractionError(f"{found.error} (it begins with {found.text[:80]!r})", found.text)
    if not as_json and found.lowest_confidence is not None:
        least = min(found.confidence, key=found.confidence.__getitem__)
        print(f"least certain: {least} ({found.lowest_confidence:.2f})", file=sys.stderr)


def schema_given(schema: Path | None, fields: str | None) -> Any:
    """What `--schema` or `--fields` say; None if neither is given. Raises UsageError for a file that is none, or for both."""
    if schema is None:
        return fields
    if fields is not None:
        raise UsageError("--schema and --fields say the same in two ways: give one of them")
    try:
        found = json.loads(schema.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {schema}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{schema} is no JSON ({' '.join(str(error).split())}): expected a JSON schema") from error
    if not isinstance(found, dict):
        raise UsageError(f"{schema} holds no JSON schema: expected an object")
    return found


def as_dict(found: Extraction) -> dict[str, Any]:
    """What `--json` prints. Boxes are pixels of the one picture."""
    return {
        "fields": found.data,
        "confidence": found.confidence,
        "boxes": found.boxes,
        "text": found.text,
        "error": found.error,
        "tokens": {"prompt": found.answer.prompt_tokens, "new": len(found.answer.token_ids)},
        "seconds": {name: round(seconds, 4) for name, seconds in found.answer.timings.items()},
    }
