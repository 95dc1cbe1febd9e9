"""A job by two actors of Ray is the job by this process. In an environment of its own: make test-ray."""

import json

import pytest

from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.jobs.job import run_job
from minimonkey.jobs.sources import Source
from tests.jobs.works import Echo

QUESTIONS = ("What?", "Why?")


def test_without_ray(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"needs Ray: pip install 'minimonkey\[scale\]'"):
        run_job(Source(pictures, QUESTIONS), Echo(), tmp_path / "out.jsonl", ray=True)


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, begun once."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_actors_say_what_one_process_says(pictures, tmp_path, cluster):
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    source = Source(pictures, QUESTIONS)
    run_job(source, Echo(fail_on="7.png"), here)
    summary = run_job(source, Echo(seconds=0.005, backwards=True, fail_on="7.png"), there, workers=2, ray=True)
    assert there.read_text() == here.read_text()
    assert (summary.rows, summary.errors) == (80, 2)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_an_error_ends_it_and_it_goes_on(pictures, tmp_path, cluster):
    out, source = tmp_path / "out.jsonl", Source(pictures, QUESTIONS)
    with pytest.raises(UsageError, match="more 0/36.png: a setting is wrong"):
        run_job(source, Echo(raise_on="more 0/36.png"), out, workers=2, ray=True)
    summary = run_job(source, Echo(), out, workers=2, ray=True, resume=True)
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == ["echo What?", "echo Why?"] * 40
    assert summary.rows == 80


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_the_model_answers_in_actors(pictures, tmp_path, cluster, tiny_model, tiny_processor):
    from minimonkey.jobs.answers import Answers

    for path in sorted(pictures.rglob("*.png"))[6:]:
        path.unlink()
    folder = tmp_path / "model"
    tiny_model(pyramid=None).save_pretrained(folder)
    tiny_processor(detail=(1, 4), adaptive=None).save_pretrained(folder)
    here, there, work = tmp_path / "here.jsonl", tmp_path / "there.jsonl", Answers(str(folder), max_new_tokens=4)
    run_job(Source(pictures, QUESTIONS), work, here)
    run_job(Source(pictures, QUESTIONS), work, there, workers=2, ray=True)
    assert there.read_text() == here.read_text()
