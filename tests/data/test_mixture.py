"""One endless stream of draws: the shares of the sets, the same order for any number of processes and workers, exact resumes."""

import json
from collections import Counter
from itertools import islice

import pytest

from minimonkey.data.mixture import Draw, Mixture, Turn
from minimonkey.data.mixture_file import DataSet, MixtureSpec
from minimonkey.data.shares import draws_per_epoch
from minimonkey.errors import DataError, UsageError


def rows(name: str, count: int) -> list[dict]:
    return [{"id": f"{name}{number}"} for number in range(count)]


def mix(sets: dict[str, tuple[int, dict]], seed: int = 0, **settings) -> Mixture:
    """A mixture of sets by name: their number of rows, and the settings of DataSet."""
    spec = MixtureSpec("m", tuple(DataSet(name, f"{name}.jsonl", **more) for name, (_, more) in sets.items()), **settings)
    return Mixture(spec, [rows(name, count) for name, (count, _) in sets.items()], seed)


def ids(mixture: Mixture, numbers) -> list[str]:
    return [mixture.row(mixture.draw(number))["id"] for number in numbers]


def drawn(mixture: Mixture, epoch: int = 0) -> Counter:
    return Counter(ids(mixture, range(epoch * len(mixture), (epoch + 1) * len(mixture))))


# -- shares ------------------------------------------------------------------------------------------------------------------------


def test_every_row_comes_repeat_times():
    mixture = mix({"a": (9, {}), "b": (4, {"repeat": 3}), "c": (5, {"repeat": 0})})
    assert mixture.draws_per_epoch == (9, 12, 0) and len(mixture) == 21
    for epoch in range(3):
        assert drawn(mixture, epoch) == Counter({f"a{n}": 1 for n in range(9)}) + Counter({f"b{n}": 3 for n in range(4)})


def test_half_a_set_comes_in_this_epoch_and_the_other_half_in_the_next():
    """Published: the first rows of the file, in every epoch, so that half of the set is never seen."""
    mixture = mix({"a": (8, {"repeat": 0.5}), "b": (4, {"repeat": 1.5})})
    assert mixture.draws_per_epoch == (4, 6)
    first, second = drawn(mixture, 0), drawn(mixture, 1)
    assert first + second == Counter({f"a{n}": 1 for n in range(8)}) + Counter({f"b{n}": 3 for n in range(4)})
    assert max(first.values()) == 2 and max(second.values()) == 2
    assert {name for name in first if name[0] == "a"} != {"a0", "a1", "a2", "a3"}


def test_shares_by_weight():
    """TinyGPT-V's sample ratios: an epoch has the rows of all sets, shared by weight."""
    mixture = mix({"laion": (20, {"weight": 115}), "cc_sbu": (109, {"weight": 14})}, balance="weight")
    assert mixture.draws_per_epoch == (115, 14)
    assert mix({"a": (20, {"weight": 1}), "b": (5, {"weight": 1})}, balance="weight", epoch_rows=7).draws_per_epoch == (4, 3)


def test_shares_by_square_root_draw_rows_of_every_set():
    """The published resampling means these weights, and never draws a row by them."""
    mixture = mix({"a": (400, {}), "b": (100, {}), "c": (25, {})}, balance="sqrt")
    assert mixture.draws_per_epoch == (300, 150, 75)
    counts = drawn(mixture)
    assert Counter(name[0] for name in counts.elements()) == {"a": 300, "b": 150, "c": 75}
    assert max(count for name, count in counts.items() if name[0] == "a") == 1
    assert Counter(counts[f"c{n}"] for n in range(25)) == {3: 25}


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0])
def test_general_rows_are_r_times_the_domain_rows(ratio):
    sets = {"x": (300, {}), "y": (50, {"repeat": 2}), "g": (3000, {"kind": "general"}), "h": (1000, {"kind": "general"})}
    x, y, g, h = mix(sets, general_ratio=ratio).draws_per_epoch
    assert (x, y) == (300, 100) and g + h == 400 * ratio and g == 3 * h


def test_epoch_rows_keep_the_ratio():
    sets = {"x": (300, {}), "g": (3000, {"kind": "general"})}
    assert mix(sets, general_ratio=0.25, epoch_rows=100).draws_per_epoch == (80, 20)
    assert mix(sets, epoch_rows=110).draws_per_epoch == (10, 100)


def test_shares_add_up():
    for total in range(3, 60):
        spec = MixtureSpec("m", tuple(DataSet(name, name) for name in "abc"), epoch_rows=total)
        draws = draws_per_epoch(spec, (7, 11, 5))
        assert sum(draws) == total and draws[1] >= draws[0] >= draws[2]


@pytest.mark.parametrize(
    ("sets", "settings", "message"),
    [
        ({"a": (0, {}), "b": (4, {})}, {}, "a.jsonl: no rows for 'a'; leave it out with `repeat: 0`"),
        ({"a": (9, {"repeat": 0.01}), "b": (4, {})}, {}, "'a' would never give one of its 9 rows; raise `repeat`"),
        ({"a": (9, {"repeat": 0})}, {}, "no data set gives a row"),
        ({"a": (9, {"weight": 1}), "b": (9, {"weight": 1e-6})}, {"balance": "weight"}, "'b' would never give"),
    ],
)
def test_a_set_that_would_never_come_is_refused(sets, settings, message):
    with pytest.raises(UsageError) as error:
        mix(sets, **settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("repeat", "settings", "more"),
    [(1e11, {}, {}), (1, {"epoch_rows": 10**14}, {}), (1e11, {}, {"as_published": "internvl"})],
)
def test_an_epoch_that_no_memory_holds_is_refused(repeat, settings, more):
    spec = MixtureSpec("m", (DataSet("a", "a.jsonl", repeat=repeat),), **settings)
    with pytest.raises(UsageError, match=r"an epoch of \d[\d,]+ rows: lower `repeat`, .* to 1,000,000,000 at most"):
        Mixture(spec, [rows("a", 9)], **more)


@pytest.mark.parametrize("sets", [[["a"]], [["a", 1, 2, 3]], [3], 3, "abc"])
def test_a_state_of_another_form_is_refused(sets):
    mixture = mix({"a": (9, {})})
    with pytest.raises(UsageError, match="expected a state with done, seed and sets, got"):
        mixture.position({"done": 1, "seed": 0, "sets": sets})


# -- order -------------------------------------------------------------------------------------------------------------------------


def three(seed: int = 3) -> Mixture:
    return mix({"a": (10, {}), "b": (6, {"repeat": 0.5}), "c": (4, {"repeat": 2})}, seed)


def test_the_seed_decides_the_order_and_epochs_differ():
    numbers = range(63)
    assert ids(three(), numbers) == ids(three(), numbers) != ids(three(4), numbers)
    mixture = three()
    assert ids(mixture, range(21)) != ids(mixture, range(21, 42))
    assert [mixture.draw(number) for number in (50, 3, 25)] == [three().draw(50), three().draw(3), three().draw(25)]


def test_the_stream_is_mixed():
    """Sets come interleaved, and no set keeps the order of its file."""
    mixture = mix({"a": (100, {}), "b": (100, {})}, seed=1)
    names = ids(mixture, range(200))
    assert 35 <= sum(name[0] == "a" for name in names[:100]) <= 65
    assert [name for name in names if name[0] == "a"] != [f"a{number}" for number in range(100)]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_processes_and_workers_take_turns(ranks, workers):
    """Step after step, all ranks together see the next draws, whatever loads them."""
    mixture, batch_rows, steps = three(), 2, 11
    stream = [mixture.draw(number) for number in range(5, 5 + ranks * batch_rows * steps)]
    seen = [[] for _ in range(ranks)]
    for rank in range(ranks):
        loaders = [mixture.numbers(5, Turn(rank, ranks, worker, workers), batch_rows) for worker in range(workers)]
        for step in range(steps):  # as torch's data loader asks its workers
            seen[rank] += [mixture.draw(number) for number in islice(loaders[step % workers], batch_rows)]
    assert [draw for together in zip(*seen, strict=True) for draw in together] == stream


@pytest.mark.slow  # two processes on a busy machine; the test above does the same without them
def test_torchs_loader_gives_the_same_batches_with_and_without_workers():
    import torch

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            turn = Turn() if info is None else Turn(worker=info.id, workers=info.num_workers)
            return (mixture.row(mixture.draw(number))["id"] for number in mixture.numbers(0, turn, 3))

    mixture = three()
    alone, shared = (
        list(islice(torch.utils.data.DataLoader(Stream(), batch_size=3, num_workers=workers), 12)) for workers in (0, 2)
    )
    assert alone == shared == [ids(mixture, range(start, start + 3)) for start in range(0, 36, 3)]


# -- resume ------------------------------------------------------------------------------------------------------------------------


def test_a_resume_goes_on_where_the_run_was():
    """With other numbers of processes and workers, through JSON, without reading what is done."""
    whole = [three().draw(number) for number in range(80)]
    state = json.loads(json.dumps(three().state(33)))
    assert len(json.dumps(state)) < 200
    again = three()
    done = again.position(state)
    by_rank = [islice((again.draw(n) for n in again.numbers(done, Turn(rank, 2))), 20) for rank in range(2)]
    assert [draw for pair in zip(*by_rank, strict=True) for draw in pair] == whole[33:73]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (three(4), "begun with seed=3, now it is 4"),
        (
            mix({"a": (11, {}), "b": (6, {"repeat": 0.5}), "c": (4, {"repeat": 2})}, 3),
            "'a' with 10 rows, 10 an epoch, now it is 'a' with 11",
        ),
        (
            mix({"a": (10, {}), "b": (6, {}), "c": (4, {"repeat": 2})}, 3),
            "'b' with 6 rows, 3 an epoch, now it is 'b' with 6 rows, 6",
        ),
        (mix({"a": (10, {}), "b": (6, {"repeat": 0.5})}, 3), "begun with 3 data sets, now there are 2"),
    ],
)
def test_a_resume_on_other_data_is_refused(other, message):
    with pytest.raises(UsageError) as error:
        other.position(three().state(7))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("state", [{}, None, {"done": 1, "seed": 0, "sets": 7}])
def test_a_state_of_something_else_is_refused(state):
    with pytest.raises(UsageError, match="expected a state with done, seed and sets"):
        three().position(state)


# -- rows --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "Total?", "answer": "18.54", "image": "r.png"}\n\n{"question": "Tax?"}\n')
    (tmp_path / "m.yaml").write_text(
        'name: m\nsets: [{name: a, rows: a.jsonl, images: ".", max_tiles: 6, template: "{question} Answer: {answer}."}]\n'
    )
    return tmp_path


def test_rows_come_from_files_worded_by_the_template(folder):
    mixture = Mixture.read(folder / "m.yaml", root=str(folder))
    draw = Draw(0, 0)
    assert mixture.row(draw) == {
        "image": "r.png",
        "conversations": [{"from": "human", "value": "<image>\nTotal? Answer:"}, {"from": "gpt", "value": "18.54."}],
    }
    assert mixture.data_set(draw).max_tiles == 6
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: the template of this data set needs a text 'answer', got None"):
        mixture.row(Draw(0, 1))


def test_any_sequence_of_rows_will_do(folder):
    """Readers of other formats are plugged in."""
    mixture = Mixture.read(folder / "m.yaml", root=str(folder), open_rows=lambda path: rows(path.stem, 5) + [{"conversations": []}])
    assert len(mixture) == 6 and mixture.row(Draw(0, 5)) == {"conversations": []}
    assert mixture.where(Draw(0, 5)) == f"{folder}/a.jsonl, row 6"


def test_other_files_need_another_reader(folder):
    (folder / "m.yaml").write_text("name: m\nsets: [{name: a, rows: a.parquet}]\n")
    with pytest.raises(UsageError, match=r"a\.parquet: expected rows as \.jsonl"):
        Mixture.read(folder / "m.yaml")


@pytest.mark.parametrize("done", [-1, "7", None, 1.5])
def test_a_state_without_a_number_is_refused(done):
    with pytest.raises(UsageError, match="expected a state with a number of draws, got done="):
        three().position(three().state(0) | {"done": done})


def test_what_the_published_code_lacks_is_refused():
    sets = (DataSet("a", "a.jsonl", repeat=1.5), DataSet("b", "b.jsonl", kind="general"))
    data = [rows("a", 4), rows("b", 4)]
    with pytest.raises(UsageError, match="as_published knows `repeat` alone"):
        Mixture(MixtureSpec("m", sets, general_ratio=1.0), data, as_published="internvl")
    with pytest.raises(UsageError, match=r"repeat=1\.5: as published, rows come whole times"):
        Mixture(MixtureSpec("m", sets), data, as_published="internvl")


def test_wrong_arguments():
    spec = MixtureSpec("m", (DataSet("a", "a.jsonl"),))
    with pytest.raises(UsageError, match="2 sequences of rows for 1 data sets"):
        Mixture(spec, [rows("a", 3)] * 2)
    with pytest.raises(UsageError, match="seed=-1"):
        Mixture(spec, [rows("a", 3)], -1)
