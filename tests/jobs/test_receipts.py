"""Three hundred drawn receipts, end to end: a folder in, a table out, with what is broken among them."""

import csv

import pytest

from minimonkey.inference import VisionLanguageModel
from minimonkey.jobs.answers import Asker
from minimonkey.jobs.job import run_job
from minimonkey.jobs.sources import Source
from minimonkey.synthetic.document import make_document
from minimonkey.synthetic.material.choice import material

COUNT = 300
QUESTIONS = ("What is the total?", "What is the date?")


class Loaded:
    """Work with a model that is there already."""

    def __init__(self, asker):
        self.settings, self.open = {}, lambda: asker


@pytest.mark.slow
def test_three_hundred_receipts(tiny_model, tiny_processor, tmp_path):
    folder, drawn = tmp_path / "receipts", material("package", "train")._asdict()
    folder.mkdir()
    for seed in range(COUNT):
        path = folder / f"{seed}.png"
        make_document(seed, "receipt", lines=(4, 8), max_side_px=600, **drawn).picture.save(path)
        if seed % 100 == 50:
            path.write_bytes(path.read_bytes()[:2000])
    vlm = VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 4), adaptive=None))
    out, work = tmp_path / "receipts.csv", Loaded(Asker(vlm, max_new_tokens=2))
    summary = run_job(Source(folder, QUESTIONS), work, out)
    assert (summary.records, summary.rows, summary.errors) == (COUNT, 2 * COUNT, 6)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["question"]) for row in rows] == [(f"{seed}.png", q) for seed in range(COUNT) for q in QUESTIONS]
    assert {row["file"] for row in rows if row["error"]} == {"50.png", "150.png", "250.png"}
    for row in rows[::97]:
        if not row["error"]:
            answer = vlm.ask(folder / row["file"], row["question"], max_new_tokens=2).text
            assert row["answer"].removeprefix("'") == answer.replace("\0", "")
