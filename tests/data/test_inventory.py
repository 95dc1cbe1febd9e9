"""What is there, what is missing and where it comes from."""

import pytest

from minimonkey.data.inventory import take_inventory
from minimonkey.data.mixture_file import DataSet, MixtureSpec
from minimonkey.errors import DataError


def data_set(name: str, **more) -> DataSet:
    settings = {"images": "pictures", "rows_from": f"{name}'s publisher", "images_from": "the painter"}
    return DataSet(name, f"{name}.jsonl", **(settings | more))


@pytest.fixture
def inventory(tmp_path):
    def take(*sets: DataSet):
        return take_inventory(MixtureSpec("m", sets, root=str(tmp_path)))

    return take


def test_everything_is_there(inventory, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").touch()
    taken = inventory(data_set("a", row_count=2), data_set("text", rows_from="", images=None, repeat=0))
    assert taken.faults == () and taken.lines() == ["m: 2 of 2 files and folders are there"]


def test_what_is_missing_and_where_it_comes_from(inventory, tmp_path):
    (tmp_path / "b.jsonl").mkdir()
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "pictures" / "val").touch()
    taken = inventory(
        data_set("a", image_folders={"train": "X", "val": "", "test": ""}), data_set("b", image_folders={"test": "Y"})
    )
    assert [(item.path.relative_to(tmp_path).as_posix(), item.fault) for item in taken.faults] == [
        ("a.jsonl", "is missing"),
        ("b.jsonl", "is no file"),
        ("pictures/train", "is empty"),
        ("pictures/val", "is no folder"),
        ("pictures/test", "is missing"),
    ]
    assert taken.faults[-1].data_sets == ("a", "b")
    assert [item.source for item in taken.faults[2:]] == ["X", "the painter", "the painter"]
    lines = taken.lines()
    assert lines[0] == "m: 0 of 5 files and folders are there"
    assert lines[1:3] == [f"  {tmp_path}/a.jsonl: is missing", "    rows of a; from a's publisher"]
    assert lines[-1] == "    pictures of a, b; from the painter"


@pytest.mark.parametrize(
    ("rows", "said", "remark"),
    [
        (10, {"row_count": 10}, ""),
        (9, {"row_count": 10}, "has 9 rows, 10 were expected"),
        (9, {}, ""),
        (1050, {"row_count": 1000, "rounded": True}, ""),
        (1200, {"row_count": 1000, "rounded": True}, "has 1,200 rows, 1,000 were expected (a rounded number)"),
        (500, {"row_count": 1000, "recalled": True, "rounded": True}, "has 500 rows, 1,000 were expected (a recalled number)"),
    ],
)
def test_another_number_of_rows_is_remarked(inventory, tmp_path, rows, said, remark):
    (tmp_path / "a.jsonl").write_text("{}\n" * rows)
    taken = inventory(data_set("a", images=None, **said))
    assert not taken.faults and taken.items[0].remark == remark
    assert len(taken.lines()) == (3 if remark else 1)


def test_a_file_that_cannot_be_read_is_named(inventory, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").touch()

    def unreadable(path):
        raise DataError(f"{path}: Permission denied")

    monkeypatch.setattr("minimonkey.data.inventory.JsonLines", unreadable)
    with pytest.raises(DataError, match=r"a\.jsonl: Permission denied"):
        inventory(data_set("a", row_count=1))
