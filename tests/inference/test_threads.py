"""Eight threads ask one model in every way at once, and each gets the answers of one thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from minimonkey.compression import SELECTORS, CompressionSpec
from minimonkey.inference import VisionLanguageModel, openvino
from minimonkey.inference.openvino import OpenVINOBackend

ROUNDS = 20
LENGTH = {"max_new_tokens": 3}
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60 + 10 * seed, 3), dtype=np.uint8)) for seed in range(4)
]


def ask(vlm, number, **settings):
    return [vlm.ask(PICTURES[number % 4], f"Question {number}?", **LENGTH, **settings)]


def stream(vlm, number, **settings):
    return ["".join(vlm.stream(PICTURES[number % 4], f"Question {number}?", **LENGTH, **settings))]


def batch(vlm, number, **settings):
    return vlm.batch([(PICTURES[number % 4], f"{number}?"), ([], "A longer question?")], **LENGTH, **settings)


def opened(vlm, number, **settings):
    with vlm.open(PICTURES[number % 4], **settings) as page:
        return [page.ask(f"Question {number}?", **LENGTH), page.ask("And?", **LENGTH)]


WAYS = (ask, stream, batch, opened)


def texts(answers):
    return [str(answer) for answer in answers]


def one_thread_and_eight(vlm, **settings):
    jobs = [(way, number) for number in range(4) for way in WAYS]

    def run(job):
        way, number = job
        given = settings if way is not batch or settings.get("compression", CompressionSpec()).selector != "scm-reference" else {}
        if way is opened and given and given["compression"].depends_on_question:
            given = {}
        return texts(way(vlm, number, **given))

    expected = [run(job) for job in jobs]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(ROUNDS):
            assert list(threads.map(run, jobs)) == expected


@pytest.fixture
def vlm(tiny_model, tiny_processor):
    return VisionLanguageModel(tiny_model("qwen2"), tiny_processor(detail=(1, 6), adaptive=(1, 4)))


def test_every_way(vlm):
    one_thread_and_eight(vlm)


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector(vlm, selector):
    one_thread_and_eight(vlm, compression=CompressionSpec(selector, 0.5))


def test_openvino(vlm, monkeypatch):
    monkeypatch.setattr(openvino, "MIN_PROMPT_TOKENS", 4)
    vlm.backend = OpenVINOBackend(vlm.model)
    one_thread_and_eight(vlm)


def test_the_processor_beside(vlm):
    """Padding is no state of the shared tokenizer: a padded call of the processor beside others changes neither."""
    text = [vlm.processor.prompt("?"), vlm.processor.prompt("A longer question?")]
    padded = vlm.processor(text=text, return_tensors="pt").input_ids.tolist()
    alone = texts(batch(vlm, 0))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(ROUNDS):
            made = [threads.submit(lambda: vlm.processor(text=text, return_tensors="pt").input_ids.tolist()) for _ in range(16)]
            said = [threads.submit(lambda: texts(batch(vlm, 0))) for _ in range(4)]
            assert [each.result() for each in made] == [padded] * 16
            assert [each.result() for each in said] == [alone] * 4
