"""`minimonkey inspect`: what it prints and draws, for named shapes and for a model folder."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PAGE = "1654x2339"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """An A4 page at 200 dpi, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (1654, 2339), "white").save("page.v2.png")
    return "page.v2.png"


def test_report_and_drawing(run, page, tmp_path):
    result = run("inspect", page, "--model", "internvl2-2b", "--pyramid", "12-24/3-5")
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert lines[0] == "1654x2339 px -> 29 tiles of 448 px"
    assert [line.split()[:2] for line in lines[1:4]] == [["detail", "4x6"], ["adaptive", "1x4"], ["thumbnail", "1x1"]]
    assert lines[4] == "7424 image tokens, 256 a tile: detail 0-6143, adaptive 6144-7167, thumbnail 7168-7423"
    assert lines[5] == "estimated cost on internvl2-2b: 49 TFLOP before the first word, vision 43 %, language model 57 %"
    assert lines[6:] == ["wrote page.v2.pyramid.png"]
    with Image.open(tmp_path / "page.v2.pyramid.png") as drawing:
        assert drawing.getcolors(maxcolors=2**20) is None or len(drawing.getcolors(maxcolors=2**20)) > 1, "the cuts are drawn"


def test_plain_tiling_and_tiles(run, page, tmp_path):
    result = run("inspect", page, "-m", "internvl2-1b", "--no-pyramid", "--out", "cuts.png", "--tiles", "tiles.png")
    assert result.code == 0
    assert "adaptive" not in result.out
    assert result.out.splitlines()[-2:] == ["wrote cuts.png", "wrote tiles.png"]
    assert not (tmp_path / "page.v2.pyramid.png").exists()
    for name in ("cuts.png", "tiles.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100


def test_a_model_folder(run, page, tiny_model, tiny_processor, tmp_path):
    """Tiles, tokens and arithmetic are the folder's own; --pyramid changes the budgets alone."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor(detail=(1, 4), adaptive=None, fit="pad").save_pretrained(tmp_path / "model")
    own, changed = (run("inspect", page, "-m", "model", *more) for more in ([], ["--pyramid", "6-6"]))
    assert own.out.splitlines()[0] == "1654x2339 px -> 3 tiles of 28 px"
    assert "12 image tokens, 4 a tile" in own.out
    assert "estimated cost on model: " in own.out
    assert changed.out.splitlines()[0] == "1654x2339 px -> 7 tiles of 28 px"


def link(of: str, name: str) -> str:
    Path(name).symlink_to(of)
    return name


def hard_link(of: str, name: str) -> str:
    Path(name).hardlink_to(of)
    return name


@pytest.mark.parametrize("option", ["--out", "--tiles"])
@pytest.mark.parametrize(
    "named", [lambda page: page, lambda page: f"./{page}", lambda page: link(page, "a.png"), lambda page: hard_link(page, "b.png")]
)
def test_a_drawing_never_replaces_the_picture(run, page, option, named):
    before, name = Path(page).read_bytes(), named(page)
    there = {*Path().iterdir()}
    for source, target in ((page, name), (name, page)):
        result = run("inspect", source, "-m", "internvl2-1b", option, target)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"minimonkey: {option} {Path(target)} would replace a picture that is read: name another file\n"
    assert Path(page).read_bytes() == before
    assert {*Path().iterdir()} == there


def test_the_drawing_without_a_name_never_replaces_the_picture(run, page):
    """Its default name may be a link to it."""
    before, name = Path(page).read_bytes(), link(page, "page.v2.pyramid.png")
    result = run("inspect", page, "-m", "internvl2-1b")
    assert (result.code, Path(page).read_bytes()) == (2, before)
    assert result.err == f"minimonkey: --out {name} would replace a picture that is read: name another file\n"


def test_a_drawing_never_replaces_the_picture_on_standard_input(page):
    """As in `minimonkey inspect - --out page.png < page.png`."""
    before = Path(page).read_bytes()
    for source in ("-", "/dev/stdin"):
        command = [sys.executable, "-m", "minimonkey.cli.main", "inspect", source, "-m", "internvl2-1b", "--out", page]
        with open(page, "rb") as stream:
            result = subprocess.run(command, stdin=stream, capture_output=True, text=True)
        assert (result.returncode, result.stdout, Path(page).read_bytes()) == (2, "", before)
        assert result.stderr == f"minimonkey: --out {page} would replace a picture that is read: name another file\n"


@pytest.mark.parametrize("there", [False, True])
def test_two_drawings_have_two_names(run, page, there):
    if there:
        Path("one.png").write_bytes(b"an older drawing")
    other = link("one.png", "two.png")
    for out, tiles in (("one.png", "one.png"), ("one.png", "./one.png"), ("one.png", other)):
        result = run("inspect", page, "-m", "internvl2-1b", "--out", out, "--tiles", tiles)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"minimonkey: --out {Path(out)} and --tiles {Path(tiles)} are one file: name two\n"
    result = run("inspect", page, "-m", "internvl2-1b", "--tiles", "page.v2.pyramid.png")
    assert result.err == "minimonkey: --out page.v2.pyramid.png and --tiles page.v2.pyramid.png are one file: name two\n"
    assert not there or Path("one.png").read_bytes() == b"an older drawing"


def test_an_older_drawing_is_replaced(run, page):
    Path("cuts.png").write_bytes(b"an older drawing")
    assert run("inspect", page, "-m", "internvl2-1b", "--out", "cuts.png").code == 0
    with Image.open("cuts.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png"], "none.png"),
        (["."], "."),
        (["{page}", "--pyramid", "5-4"], "5"),
        (["{page}", "-m", "no-such-model/"], "no-such-model"),
        (
            ["{page}", "-m", "internvl2-1b", "--out", "no/such/folder.png"],
            "can't write no/such/folder.png: No such file",
        ),
        (
            ["{page}", "-m", "internvl2-1b", "--out", "drawing.pgn"],
            "can't write drawing.pgn: unknown file extension: .pgn; try drawing.png",
        ),
        (["{page}", "-m", "{broken}"], "processor"),
    ],
)
def test_bad_input_is_one_line(run, page, words, message, tiny_model, tiny_processor):
    tiny_model().save_pretrained("broken")
    tiny_processor().save_pretrained("broken")
    Path("broken/processor_config.json").unlink()
    result = run("inspect", *(word.format(page=page, broken="broken") for word in words))
    assert result.code == 2
    assert result.err.startswith("minimonkey: ")
    assert result.err.count("\n") == 1
    assert message in result.err
