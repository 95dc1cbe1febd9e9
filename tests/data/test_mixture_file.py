"""What a mixture file may say, and the one line, with file and key, for what it may not."""

import json

import pytest

from minimonkey.data.mixture_file import DataSet, read_mixture
from minimonkey.errors import UsageError

ENTRY = {"root": "pictures/", "annotation": "a.jsonl", "data_augment": False, "repeat_time": 1}


@pytest.fixture
def written(tmp_path):
    def write(content: str | dict, name: str = "") -> str:
        path = tmp_path / (name or ("m.json" if isinstance(content, dict) else "m.yaml"))
        path.write_text(json.dumps(content) if isinstance(content, dict) else content)
        return str(path)

    return write


def refused(path: str) -> str:
    with pytest.raises(UsageError) as error:
        read_mixture(path)
    message = str(error.value)
    assert path in message and "\n" not in message and len(message) < 320
    return message


# -- ours --------------------------------------------------------------------------------------------------------------------------


def test_yaml(written):
    spec = read_mixture(
        written("""
name: mine
root: /data
general_ratio: 0.25
sets:
  - {name: a, rows: a.jsonl, images: a, repeat: 2, max_tiles: 6, image_folders: {x: X}}
  - {name: b, rows: b.json, kind: general}
""")
    )
    a, b = spec.sets
    assert a == DataSet("a", "a.jsonl", "a", {"x": "X"}, repeat=2.0, max_tiles=6)
    assert b == DataSet("b", "b.json", kind="general") and b.images is None
    assert (spec.name, spec.balance, spec.general_ratio) == ("mine", "repeat", 0.25)
    assert str(spec.path(a.rows)) == "/data/a.jsonl"


def test_the_root_can_be_given(written):
    spec = read_mixture(written("name: m\nroot: /data\nsets: [{name: a, rows: a.jsonl}]"), root="here")
    assert str(spec.path("a.jsonl")) == "here/a.jsonl"
    assert str(read_mixture(written("name: m\nsets: [{name: a, rows: a.jsonl}]")).path("a.jsonl")) == "a.jsonl"


def test_sets_of_another_file_are_taken_over(written):
    written("name: all\nsets: [{name: g, rows: g.jsonl}, {name: h, rows: h.jsonl, repeat: 3}]", "all.yaml")
    spec = read_mixture(
        written("name: m\nsets: [{name: a, rows: a.jsonl}]\ninclude: [{file: all.yaml, kind: general, repeat: 0.2}]")
    )
    assert [(each.name, each.kind, each.repeat) for each in spec.sets] == [
        ("a", "domain", 1.0),
        ("g", "general", 0.2),
        ("h", "general", 0.2),
    ]
    written("name: m\ninclude: [{file: all.yaml}]", "between.yaml")
    nested = read_mixture(written("name: m\nsets: []\ninclude: [{file: between.yaml}]"))
    assert [(each.name, each.repeat) for each in nested.sets] == [("g", 1.0), ("h", 3.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: m\nsets: [{name: a, rows: a.jsonl, wieght: 2}]", "m.yaml: sets[0]: unknown key 'wieght'; the nearest is 'weight'"),
        ("name: m\nsets: [{name: a}]", "m.yaml: sets[0]: missing key 'rows'"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, repeat: often}]", "m.yaml: sets[0]: repeat='often': expected float"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, repeat: .nan}]", "m.yaml: a: repeat=nan: expected a number from 0 on"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, repeat: -1}]", "m.yaml: a: repeat=-1.0: expected a number from 0 on"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, max_tiles: 0}]", "m.yaml: a: max_tiles=0: expected a number above 0"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, weight: 2}]", "m.yaml: a: weight=2.0 counts only with `balance: weight`"),
        ("name: m\nbalance: weight\nsets: [{name: a, rows: a.jsonl}]", "m.yaml: a: missing key 'weight'"),
        ("name: m\nbalance: weight\nsets: [{name: a, rows: a.jsonl, weight: -1}]", "m.yaml: a: weight=-1.0: expected"),
        ("name: m\nbalance: sqrt\nsets: [{name: a, rows: a.jsonl, repeat: 2}]", "m.yaml: a: repeat=2.0 counts only with"),
        ("name: m\nbalance: size\nsets: [{name: a, rows: a.jsonl}]", "m.yaml: balance='size': expected one of 'repeat', 'weight'"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, kind: special}]", "m.yaml: sets[0]: kind='special': expected one of 'general'"),
        ("name: m\nsets: [{name: a, rows: a.jsonl}]\ngeneral_ratio: 0.25", "needs sets of both kinds, here all are 'domain'"),
        ("name: m\nsets: [{name: a, rows: a.jsonl}]\ngeneral_ratio: 0", "m.yaml: general_ratio=0.0: expected a number above 0"),
        ("name: m\nsets: [{name: a, rows: a.jsonl}]\nepoch_rows: 0", "m.yaml: epoch_rows=0: expected a number above 0"),
        ("name: m\nsets: [{name: a, rows: a.jsonl}, {name: a, rows: b.jsonl}]", "m.yaml: two data sets are named 'a'"),
        ("name: m\nsets: []", "m.yaml: sets: expected at least one data set"),
        ("name: m\nsets: {a: a.jsonl}", "m.yaml: sets={'a': 'a.jsonl'}: expected a list"),
        ("- a", "expected `key: value` lines, got list"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, image_folders: [x]}]", "m.yaml: sets[0]: image_folders=['x']: expected dict"),
        (
            "name: m\nsets: [{name: a, rows: a.jsonl, image_folders: {x: 7}}]",
            "m.yaml: a: image_folders: expected `folder: its publ",
        ),
        ("name: m\nsets: [{name: a, rows: a.jsonl, template: 'Say it'}]", "m.yaml: a: template='Say it': expected {answer} once"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, template: '{answer} {question}'}]", "expected {answer} once, after all other"),
        ("name: m\nsets: [{name: a, rows: a.jsonl, template: '{} {answer}'}]", "expected {answer} once, after all other"),
        ("name: m\ninclude: [{file: m.yaml}]", "m.yaml: include: m.yaml includes itself"),
    ],
)
def test_a_wrong_key_or_value_is_named(written, text, message):
    assert message in refused(written(text))


def test_missing_and_unknown_files_are_named(written, tmp_path):
    assert "No such file" in refused(str(tmp_path / "none.yaml"))
    assert "No such file" in refused(str(tmp_path / "none.json"))
    assert "expected a mixture as .yaml or .yml, or a published meta file as .json" in refused(written("x", "m.toml"))
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        read_mixture(written("name: m\ninclude: [{file: none.yaml}]"))


# -- published ---------------------------------------------------------------------------------------------------------------------


def test_published_meta(written):
    spec = read_mixture(
        written({"a": ENTRY | {"repeat_time": 3, "max_dynamic_patch": 2, "length": 9}, "b": ENTRY | {"data_augment": True}}),
        root="/r",
    )
    assert spec.sets[0] == DataSet("a", "a.jsonl", "pictures/", repeat=3.0, max_tiles=2, row_count=9)
    assert spec.sets[1].augment and spec.sets[1].max_tiles is None
    assert (spec.name, str(spec.path(spec.sets[0].images))) == ("m", "/r/pictures")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat_time": 1.5}, "repeat_time=1.5: expected 1 or 2: above 1 the published form repeats whole times"),
        ({"repeat_time": 2.0}, "repeat_time=2.0: expected 2: above 1 the published form repeats whole times"),
        ({"repeat_time": "2"}, "repeat_time='2': expected a number from 0 on"),
        ({"repeat_time": True}, "repeat_time=True: expected a number from 0 on"),
        ({"repeat_time": -0.5}, "repeat_time=-0.5: expected a number from 0 on"),
        ({"repeat_time": float("nan")}, "repeat_time=nan: expected a number from 0 on"),
        ({"repeat_time": float("inf")}, "repeat_time=inf: expected a number from 0 on"),
        ({"repeat_time": None}, "repeat_time=None: expected a number from 0 on"),
        ({"annotation": "a.json"}, "annotation='a.json': expected a .jsonl file; a mixture in YAML takes other files too"),
        ({"annotation": 7}, "annotation=7: expected a path as text"),
        ({"root": None}, "root=None: expected a path as text"),
        ({"data_augment": 0}, "data_augment=0: expected true or false"),
        ({"max_dynamic_patch": 0}, "max_dynamic_patch=0: expected a whole number above 0"),
        ({"max_dynamic_patch": 2.5}, "max_dynamic_patch=2.5: expected a whole number above 0"),
        ({"length": -1}, "length=-1: expected a whole number, the rows of the file"),
        ({"repeat_times": 2}, "unknown key 'repeat_times'; the nearest is 'repeat_time'"),
    ],
)
def test_a_wrong_published_value_is_named(written, changes, message):
    assert f"m.json: a: {message}" in refused(written({"a": ENTRY | changes}))


@pytest.mark.parametrize("key", ENTRY)
def test_a_missing_published_key_is_named(written, key):
    entry = {name: value for name, value in ENTRY.items() if name != key}
    assert f"m.json: a: missing key {key!r}" in refused(written({"a": entry}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object {name: {...}} of data sets, got []"),
        ('{"a": []}', "m.json: a: expected an object with root, annotation, data_augment, repeat_time, got []"),
        ('{"a": {}, "a": {}}', "the key 'a' stands there twice, and the first would be lost"),
        ('{"a": ', "no valid JSON (Expecting value in line 1)"),
        ("{}", "sets: expected at least one data set"),
        ("[" * 100_000, "no valid JSON (it's nested too deeply)"),
    ],
    ids=["list", "list inside", "twice", "cut short", "empty", "nested"],
)
def test_a_meta_of_another_shape_is_refused(written, text, message):
    assert message in refused(written(text, "m.json"))


def test_a_meta_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "m.json"
    path.write_bytes(b'{"\xff": 1}')
    assert "no text in UTF-8" in refused(str(path))
