"""Rows come out in order, once each, whatever happens to the process."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimonkey.errors import DataError, ShortOfMemoryError, UsageError
from minimonkey.jobs import job, journal
from minimonkey.jobs.job import run_job
from minimonkey.jobs.sources import Source
from tests.jobs.works import Echo

ROOT = Path(__file__).parents[2]
QUESTIONS = ("What?", "Why?", "=Who?")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(pictures, work=None):
    source = Source(pictures, QUESTIONS)
    return [(work or Echo()).row(record, question) for record in source for question in QUESTIONS]


def line_of(error, call, *arguments, **settings):
    with pytest.raises(error) as raised:
        call(*arguments, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_rows_are_in_order(pictures, tmp_path, workers, backwards):
    out = tmp_path / "out.jsonl"
    summary = run_job(Source(pictures, QUESTIONS), Echo(backwards=backwards), out, workers=workers)
    assert rows_of(out) == expected(pictures)
    assert (summary.records, summary.rows, summary.errors, summary.resumed) == (40, 120, 0, 0)
    assert str(summary).startswith(f"wrote {out}: 120 rows of 40 records, no errors; 120 in ")
    left = json.loads((tmp_path / "out.jsonl.job" / "settings.json").read_text())
    assert (left["settings"]["word"], left["finished"]["rows"]) == ("echo", 120)
    assert not (tmp_path / "out.jsonl.job" / "rows.jsonl").exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_every_format(pictures, tmp_path, ending):
    out = tmp_path / f"out{ending}"
    run_job(Source(pictures, QUESTIONS), Echo(), out)
    if ending == ".csv":
        assert out.read_text().splitlines()[:2] == ["file,question,answer,error", "1.png,What?,echo What?,"]
        assert out.read_text().count("'=Who?") == 40, "the question, which a spreadsheet would take for a formula"
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(out).to_pylist() == expected(pictures)


def test_a_record_that_fails_is_a_row_with_its_error(pictures, tmp_path):
    out = tmp_path / "out.jsonl"
    summary = run_job(Source(pictures, QUESTIONS), Echo(fail_on="7.png"), out)
    failed = [row for row in rows_of(out) if row["error"] is not None]
    assert [(row["file"], row["answer"], row["error"]) for row in failed] == [("7.png", None, "no luck")] * 3
    assert (summary.rows, summary.errors) == (120, 3)
    assert "3 with an error" in str(summary)


def test_too_many_errors(pictures, tmp_path):
    """The job stops, and goes on if told that more are fine."""
    out = tmp_path / "out.jsonl"
    source, work = Source(pictures, QUESTIONS), Echo(fail_on="7.png")
    message = line_of(DataError, run_job, source, work, out, max_errors=1)
    assert "rows of" in message and "more than max_errors=1, the latest: no luck; resume with another max_errors" in message
    assert not out.exists()
    summary = run_job(source, work, out, resume=True, max_errors=3)
    assert rows_of(out) == expected(pictures, work)
    assert summary.resumed > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_job_ends_it(pictures, tmp_path, workers):
    out = tmp_path / "out.jsonl"
    source = Source(pictures, QUESTIONS)
    work = Echo(raise_on="more 0/36.png")
    assert line_of(UsageError, run_job, source, work, out, workers=workers) == "more 0/36.png: a setting is wrong"
    assert not out.exists()
    run_job(source, Echo(), out, resume=True)
    assert rows_of(out) == expected(pictures)


def test_a_worker_that_is_killed(pictures, tmp_path):
    out = tmp_path / "out.jsonl"
    source = Source(pictures, QUESTIONS)
    message = line_of(ShortOfMemoryError, run_job, source, Echo(kill_on="19.png"), out, workers=2)
    assert message == "one of 2 workers was ended by the system, as happens when memory runs out: give fewer workers, and resume"
    run_job(source, Echo(), out, resume=True, workers=2)
    assert rows_of(out) == expected(pictures)


def test_what_is_there_is_not_made_again(pictures, tmp_path):
    """The journal may end within a row, or with the zeros of a power failure."""
    whole = tmp_path / "whole.jsonl"
    run_job(Source(pictures, QUESTIONS), Echo(), whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    ends = {0: b"", 1: b'{"file": "x', 7: b"", 48: b"\0" * 200, 49: b'{"file": 3}', 119: b"5\n", 120: b""}
    for number, rest in ends.items():
        out, log = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.log"
        work = Echo(log=str(log), raise_on="1.png")
        with pytest.raises(UsageError):
            run_job(Source(pictures, QUESTIONS), work, out)
        (tmp_path / f"{number}.jsonl.job" / "rows.jsonl").write_bytes(b"".join(lines[:number]) + rest)
        summary = run_job(Source(pictures, QUESTIONS), Echo(log=str(log)), out, resume=True)
        assert out.read_bytes() == whole.read_bytes()
        assert summary.resumed == number
        assert (len(log.read_text().splitlines()) if log.exists() else 0) == 120 - number


def test_what_is_refused(pictures, tmp_path):
    out, source, work = tmp_path / "out.jsonl", Source(pictures, QUESTIONS), Echo(raise_on="more 0/36.png")
    assert "nothing to resume: no job was begun" in line_of(UsageError, run_job, source, work, out, resume=True)
    assert not (tmp_path / "out.jsonl.job").exists()
    with pytest.raises(UsageError, match="a setting is wrong"):
        run_job(source, work, out)
    assert "was begun already: --resume goes on with it" in line_of(UsageError, run_job, source, work, out)
    other = tmp_path / "other.jsonl"
    assert "nothing to resume" in line_of(UsageError, run_job, source, work, other, resume=True), "another output"
    message = line_of(UsageError, run_job, source, Echo("else"), out, resume=True)
    assert message == f"{out} was begun with word='echo', not 'else': go on with that, or name another file"
    fewer = Source(pictures, QUESTIONS[:2])
    assert "was begun with questions=" in line_of(UsageError, run_job, fewer, work, out, resume=True)
    more = Source([pictures, pictures / "1.png"], QUESTIONS)
    assert "the files that are read have changed" in line_of(UsageError, run_job, more, work, out, resume=True)
    run_job(source, Echo(), out, resume=True)
    assert line_of(UsageError, run_job, source, Echo(), out) == f"{out} exists: name another file, or delete it"
    again = run_job(source, Echo(), out, resume=True)
    assert (again.rows, again.resumed, again.seconds) == (120, 120, 0.0), "it was done already"
    assert "another file" in line_of(UsageError, run_job, source, Echo("else"), out, resume=True)
    out.unlink()
    run_job(source, Echo("else"), out)
    assert rows_of(out)[0]["answer"] == "else What?"


@pytest.mark.parametrize(
    ("name", "value"), [("workers", 0), ("workers", 1.5), ("workers", True), ("max_errors", -1), ("max_errors", True)]
)
def test_numbers_that_cannot_be(pictures, tmp_path, name, value):
    message = line_of(UsageError, run_job, Source(pictures, ["?"]), Echo(), tmp_path / "out.csv", **{name: value})
    assert message.startswith(f"{name}={value}: expected a whole number")


def test_where_nothing_can_be_written(pictures, tmp_path, monkeypatch):
    source = Source(pictures, ["?"])
    assert "No such file or directory" in line_of(UsageError, run_job, source, Echo(), tmp_path / "nowhere" / "out.csv")
    assert "expected a name that ends in" in line_of(UsageError, run_job, source, Echo(), tmp_path / "out.xlsx")
    (tmp_path / "file").write_text("")
    assert "Not a directory" in line_of(UsageError, run_job, source, Echo(), tmp_path / "file" / "out.csv")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)  # as root may write anywhere
    out = tmp_path / "out.csv"
    assert line_of(UsageError, run_job, source, Echo(), out) == f"can't write {out}: Permission denied"


def test_a_full_disk(pictures, tmp_path, monkeypatch):
    """Rows that were written stay; the table comes with the next try."""
    source, out = Source(pictures, ["?"]), tmp_path / "out.csv"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write_rows", full)
    assert line_of(UsageError, run_job, source, Echo(), out) == f"can't write {out}: No space left on device"
    monkeypatch.undo()
    assert run_job(source, Echo(), out, resume=True).resumed == 40


SCRIPT = """
import sys
from minimonkey.jobs.job import run_job
from minimonkey.jobs.sources import Source
from tests.jobs.works import Echo

if __name__ == "__main__":
    folder, out, workers, *resume = sys.argv[1:]
    work = Echo(seconds=0.004, backwards=True, log=out + ".log")
    run_job(Source(folder, {questions!r}), work, out, workers=int(workers), resume=bool(resume))
"""


def started(pictures, out, workers, *resume):
    """The job in a process of its own."""
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(questions=QUESTIONS))
    where = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, str(script), str(pictures), str(out), str(workers), *resume]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": where}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_twenty_times(pictures, tmp_path, workers):
    """kill -9 at random moments, start to finish: the table is that of a run that nobody disturbed."""
    dice, out = random.Random(workers), tmp_path / "out.jsonl"
    kills, finished = 0, False
    while kills < 20:
        begun = ["--resume"] if (tmp_path / "out.jsonl.job").exists() else []
        with started(pictures, out, workers, *begun) as process:
            before = time.monotonic()
            while process.poll() is None and not (tmp_path / "out.jsonl.job" / "rows.jsonl").exists():
                if time.monotonic() - before > dice.uniform(5, 30):
                    break
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.15))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            else:
                assert process.returncode == 0, process.stderr.read()
                finished = True
        if finished and kills < 20:  # done too soon: as many as are left go on with a journal cut anew
            finished = False
            lines = out.read_bytes().splitlines(keepends=True)
            settings = tmp_path / "out.jsonl.job" / "settings.json"
            found = json.loads(settings.read_text()) | {"finished": None}
            settings.write_text(json.dumps(found))
            (tmp_path / "out.jsonl.job" / "rows.jsonl").write_bytes(b"".join(lines[: dice.randrange(60)]) + lines[60][:20])
            out.unlink()
    with started(pictures, out, workers, "--resume") as process:
        assert process.wait(120) == 0, process.stderr.read()
    assert rows_of(out) == expected(pictures)


@pytest.mark.slow
def test_workers_end_with_their_parent(pictures, tmp_path):
    out, log = tmp_path / "out.jsonl", tmp_path / "out.jsonl.log"
    with started(pictures, out, 2) as process:
        while not (log.exists() and log.read_text().endswith("\n")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        workers = {int(line.split()[-1]) for line in log.read_text().splitlines()}
        os.kill(process.pid, signal.SIGKILL)
    assert workers and process.pid not in workers
    until = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until, "a worker outlives the job"
        time.sleep(0.05)


def _run(pictures, out, results):
    try:
        results.put(str(run_job(Source(pictures, QUESTIONS), Echo(seconds=0.01), out)))
    except UsageError as error:
        results.put(f"refused: {error}")


def test_two_processes_on_one_output(pictures, tmp_path):
    """One writes, the other is told so."""
    out, spawn = tmp_path / "out.jsonl", multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_run, args=(pictures, out, results)) for _ in range(2)]
    for process in processes:
        process.start()
    said = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    refusals = [
        f"refused: {out}: another process writes it; wait for its end, or name another file",
        f"refused: {out} exists: name another file, or delete it",
    ]
    assert said[0] in refusals
    assert said[1].startswith(f"wrote {out}: 120 rows")
    assert rows_of(out) == expected(pictures)


def test_the_bar_counts_records(pictures, tmp_path, monkeypatch):
    class Terminal:
        said = ""

        def write(self, text):
            self.said += text

        def flush(self):
            pass

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run_job(Source(pictures, QUESTIONS), Echo(fail_on="7.png"), tmp_path / "out.csv", progress=True)
    monkeypatch.undo()
    assert "40/40" in terminal.said and "records" in terminal.said and "3 errors" in terminal.said


def test_windows_are_the_same_when_a_job_goes_on(pictures):
    source = Source(pictures, QUESTIONS)
    whole = list(job._windows(source, 0))
    assert [len(window.records) for window in whole] == [16, 16, 8]
    later = list(job._windows(source, 50))
    assert [(window.records, window.done) for window in later] == [(whole[1].records, 2), (whole[2].records, 0)]
    assert list(job._windows(source, 120)) == []
