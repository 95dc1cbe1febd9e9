"""Synthetic text: labels lie on the ink, the same seed gives the same sample, nothing held out is trained on."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minimonkey.errors import DataError, UsageError
from minimonkey.synthetic import contact_sheet, held_out
from minimonkey.synthetic.material import typefaces, words
from minimonkey.synthetic.rendering import degrade, lines, typesetting

GOLDEN, PACKAGE = (
    json.loads((Path(__file__).parents[1] / "golden" / f"{name}.json").read_text("utf-8"))
    for name in ("held_out_lines", "held_out_package")
)


def vocabulary(split: typefaces.Split) -> words.Vocabulary:
    """Made-up words, so that no word lists have to be installed."""
    text = "".join(f"\n{a}{b}{c}{d}" for a in "bdgklmnprst" for b in "aeiouéü" for c in "lmnrst" for d in ("", "en", "ßig")) + "\n"
    return words.Vocabulary((text.encode(),), (1.0,), split)


def sample(seed: int, kind: lines.Kind, **options: object) -> lines.Sample:
    return lines.make_sample(seed, kind, typefaces=[typefaces.PILLOW], words=vocabulary("train"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", lines.KINDS)
def test_a_seed_is_a_sample(kind: lines.Kind) -> None:
    one, again, other = sample(7, kind), sample(7, kind), sample(8, kind)
    assert one.picture.tobytes() == again.picture.tobytes()
    assert one.text == again.text and one.text
    assert all(np.array_equal(a.centers, b.centers) for a, b in zip(one.lines, again.lines, strict=True))
    assert one.text != other.text


@pytest.mark.parametrize("kind", ["line", "long_line", "region"])
def test_text_never_leaves_the_picture(kind: lines.Kind) -> None:
    for seed in range(120):
        made = sample(seed, kind)
        width, height = made.picture.size
        for line in made.lines:
            left, top, right, bottom = line.box
            assert 0 <= left < right <= width and 0 <= top < bottom <= height, (seed, line)
            assert line.centers.shape == (len(line.text), 2) and line.centers.dtype == np.float32
            assert np.all((line.centers >= 0) & (line.centers <= (width, height)))
        assert (2 <= len(made.lines) <= 8) if kind == "region" else (len(made.lines) == 1)
        assert width <= (1960 if kind == "long_line" else 1010)


def test_long_lines_are_long_and_some_look_like_source_code() -> None:
    texts = [sample(seed, "long_line", size_px=(10, 14)).text for seed in range(100)]
    assert all(30 <= len(text) <= 140 for text in texts), sorted(map(len, texts))
    assert np.mean([len(text) for text in texts]) > 60
    signs = [sum(text.count(sign) for sign in "()[]{}<>=_/-;") / len(text) for text in texts]
    assert 10 <= sum(share > 0.1 for share in signs) <= 60


def test_tiles_label_what_is_inside() -> None:
    counts = []
    for seed in range(30):
        made = sample(seed, "tile", tile_px=112, size_px=(10, 14))
        assert made.picture.size == (112, 112)
        for line in made.lines:
            assert len(line.text) == len(line.centers) and line.text == line.text.strip()
            assert np.all((line.centers >= 0) & (line.centers < 112))
        counts.append(sum(len(line.text) for line in made.lines))
    assert np.mean(counts) > 40, "tiles are to be dense"


def test_cut_keeps_characters_whose_centre_is_inside() -> None:
    centers = np.array([[-3, 5], [1, 5], [5, 5], [9, 5], [13, 5]], dtype=np.float32)
    edges = np.stack((centers[:, 0] - 2, centers[:, 0] + 2), axis=1)
    kept = lines.cut(lines.Line("ab cd", centers, edges, 9.0, (-5.0, 0.0, 15.0, 9.0)), 10)
    assert kept is not None and kept.text == "b c" and kept.box == (0.0, 0.0, 10.0, 9.0)
    assert kept.centers[:, 0].tolist() == [1, 5, 9]
    assert kept.edges.tolist() == [[-1, 3], [3, 7], [7, 11]]
    spaced = lines.Line("a c", centers[[0, 2, 4]], edges[[0, 2, 4]], 9.0, (-5.0, 0.0, 15.0, 9.0))
    assert lines.cut(spaced, 10) is None, "a space alone is no text"


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (0, 2), (2, 1), (-2, 2)])
def test_centres_lie_on_the_ink(degrees: float, scale: int) -> None:
    """Each character, drawn alone where the row has it, has its ink about the centre that the label gives."""
    face = typefaces.face("", 24.0 * scale)
    text = "Mono 25,80 WAVE"
    glyphs, advances = face.set(text)
    run = typesetting.Run(text, face, 10.0, 60.0 * scale, glyphs, advances)
    place = lines.Placement(math.radians(degrees), 3.0, 1.0, scale)
    line = lines.read_row([run], place)
    assert line.text == text
    whole = place.draw([[run]], [], (260, 100)).getbbox()
    assert whole is not None
    assert np.allclose(whole, line.box, atol=3), "the box is about the ink"
    for index, character in enumerate(text):
        alone = typesetting.Run(character, face, run.edges[index], run.baseline, glyphs[index : index + 1], np.zeros(2))
        box = place.draw([[alone]], [], (260, 100)).getbbox()
        if character == " ":
            assert box is None
            continue
        assert box is not None
        x, y = line.centers[index]
        assert abs(x - (box[0] + box[2]) / 2) < 2.5, character
        assert character == "," or box[1] - 1 <= y <= box[3] + 1, character


def test_runs_of_a_row_are_joined_by_one_space() -> None:
    face = typefaces.face("", 20.0)
    left, right = (typesetting.Run(text, face, x, 30.0, *face.set(text)) for text, x in (("Tea", 5.0), ("2.50", 105.0)))
    line = lines.read_row([left, right], lines.Placement(0.0, 0.0, 0.0, 1))
    assert line.text == "Tea 2.50"
    assert line.centers[3, 0] == pytest.approx((left.edges[-1] + 105.0) / 2)
    assert line.edges[3].tolist() == pytest.approx([left.edges[-1], 105.0])
    assert line.em_px == 20.0 and np.allclose(line.edges[1:, 0], line.edges[:-1, 1]), "advances follow one another"
    assert line.centers[4, 0] > 105


def test_boxes_hold_the_ink_of_each_run_only() -> None:
    """A row turned as one long box would reach further than its ink, out of the picture."""
    face = typefaces.face("", 20.0)
    left, right = (typesetting.Run(text, face, x, 30.0, *face.set(text)) for text, x in (("ll", 0.0), ("..", 400.0)))
    place = lines.Placement(math.radians(-2), 5.0, 60.0, 1)
    painted = place.draw([[left, right]], [], (450, 120)).getbbox()
    assert painted is not None
    assert lines.read_row([left, right], place).box == pytest.approx(painted, abs=2.5)


def test_advances_are_those_of_the_font() -> None:
    face = typefaces.face("", 21.5)
    for text in ("Total: 1,234.56 €", "AVATAR To Te", "x"):
        assert face.set(text)[1][-1] == pytest.approx(face.font.getlength(text), abs=0.1)


def test_writer_keeps_to_what_the_typeface_has() -> None:
    lacks = "aeé€$1("
    writer = words.Writer(np.random.default_rng(3), vocabulary("train"), lacks)
    texts = [writer.phrase(4 + index % 50) for index in range(400)]
    assert set("".join(texts)) <= set(words.ALPHABET) - set(lacks)
    assert all(text and text == " ".join(text.split()) for text in texts)
    assert len(set("".join(texts))) > 120, "most of the alphabet turns up"


def test_fit_cuts_after_a_word() -> None:
    writer = words.Writer(np.random.default_rng(0), vocabulary("train"))
    assert writer.fit("  two   words ") == "two words"
    assert writer.fit("alpha beta gamma", 12) == "alpha beta"
    assert writer.fit("incomprehensible", 5) == "incom"


def test_alphabet() -> None:
    assert len(words.ALPHABET) == len(set(words.ALPHABET)) == 180
    assert set("Aa09 ~ßŸ€£°§·–—‘’“”…©") <= set(words.ALPHABET)


def test_held_out_words_are_never_trained_on() -> None:
    rng = np.random.default_rng(1)
    train, held = ({vocabulary(split).draw(rng) for _ in range(500)} for split in ("train", "held_out"))
    assert train and held and not train & held
    assert not {word.casefold() for word in held} & words.FOLDED
    assert words.is_held_out("Bautiful") == words.is_held_out("bAUTIFUL")
    share = np.mean([words.is_held_out(f"word{index}") for index in range(4000)])
    assert 0.04 < share < 0.06


def test_catalogue() -> None:
    catalogue = typefaces.catalogue()
    families = [typeface.family for typeface in catalogue]
    held = {typeface.family for typeface in catalogue if typeface.split == "held_out"}
    assert len(set(families)) == len(families) >= 130
    assert sorted(held) == sorted(GOLDEN["typefaces"])
    assert {"Lato", "Carlito", "Karla", "Karmilla", "PT Sans", "PT Serif", "PT Mono"} <= held, "siblings stand together"
    assert not {"Liberation Sans", "Arimo", "Nimbus Sans", "Open Sans", "Noto Sans", "CMU Serif", "Roboto", "Roboto Slab"} & held
    files = [file for typeface in catalogue for file in typeface.files]
    assert len(files) == len(set(files)) >= 500
    assert all(typeface.licence for typeface in catalogue)
    assert all(typeface.packages for typeface in catalogue)
    packages = {package for typeface in catalogue for package in typeface.packages}
    assert len(packages) == 102 and all(package.startswith("fonts-") for package in packages)


@pytest.mark.debian
def test_the_packages_of_a_typeface_hold_its_files() -> None:
    """ "apt-get install" of what an error names has to be enough."""
    of_file = {file: typeface for typeface in typefaces.catalogue() for file in typeface.files}
    found = subprocess.run(["dpkg-query", "--search", *of_file], capture_output=True, text=True, check=True).stdout
    owners = [line.partition(": ")[::2] for line in found.splitlines() if not line.startswith("diversion")]
    assert {file for _, file in owners} == of_file.keys()
    assert all(package in of_file[file].packages for package, file in owners)


def test_lacking() -> None:
    font = typefaces.face("", 24.0).font
    assert typefaces.lacking(font, "aZ9 &") == ""
    assert typefaces.lacking(font, "a漢ж") == "漢ж"
    assert typefaces.lacking(font, words.ALPHABET) == typefaces.PILLOW.lacks


@pytest.mark.debian
def test_the_held_out_lines_are_the_frozen_ones() -> None:
    made = list(held_out.held_out_lines(GOLDEN["count"]))
    assert [text for _, text in made] == GOLDEN["texts"]
    assert held_out.digest(made) == GOLDEN["sha256"]


def test_lines_of_what_comes_with_minimonkey_are_the_frozen_ones() -> None:
    """The same code, on every machine."""
    made = list(held_out.held_out_lines(PACKAGE["lines"]["count"], "package"))
    assert [text for _, text in made][: len(PACKAGE["lines"]["texts"])] == PACKAGE["lines"]["texts"]
    assert held_out.digest(made) == PACKAGE["lines"]["sha256"]


def test_digest_sees_pixels_and_texts() -> None:
    picture = Image.new("RGB", (3, 2), "white")
    other = Image.new("RGB", (2, 3), "white")
    assert len({held_out.digest(made) for made in ([(picture, "a")], [(picture, "b")], [(other, "a")], [])}) == 4
    assert held_out.digest([(picture, "a")]) == hashlib.sha256(b"RGB 3x2\na\n" + b"\xff" * 18).hexdigest()


def test_colours_stay_readable() -> None:
    rng = np.random.default_rng(0)
    pairs = [degrade.colours(rng, 100.0) for _ in range(300)]
    assert min(abs(float((ink - paper) @ degrade.LUMA)) for ink, paper in pairs) >= 100
    light_on_dark = np.mean([(ink - paper) @ degrade.LUMA > 0 for ink, paper in pairs])
    assert 0.1 < light_on_dark < 0.4


def test_printing_moves_nothing() -> None:
    mask = Image.new("L", (60, 40))
    mask.paste(255, (20, 10, 40, 30))
    for seed in range(40):
        picture = np.asarray(degrade.print_on_paper(np.random.default_rng(seed), mask, 20.0), dtype=np.float32) @ degrade.LUMA
        assert picture.shape == (40, 60)
        inside, outside = picture[12:28, 22:38].mean(), np.concatenate((picture[:8].ravel(), picture[32:].ravel())).mean()
        assert abs(inside - outside) > 40, seed


def test_contact_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "make_sample", lambda seed, kind, split: sample(seed, kind))
    plain = contact_sheet.contact_sheet(4, 0, "line", width=700)
    dotted = contact_sheet.contact_sheet(4, 0, "line", width=700, dots=True)
    assert plain.width == dotted.width == 700 and plain.size == dotted.size
    assert np.any(np.asarray(plain) != np.asarray(dotted))
    made = sample(0, "line")
    x, y = np.round(made.lines[0].centers[0]).astype(int).tolist()
    assert contact_sheet.with_dots(made).getpixel((x, y)) == (255, 0, 0)


def test_captions_have_every_character_that_samples_may_hold() -> None:
    assert typefaces.lacking(contact_sheet._font(contact_sheet.FINE), words.ALPHABET) == ""


def test_a_sheet_says_what_its_samples_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "make_sample", lambda seed, kind, split: sample(seed, kind))
    bare, headed = (np.asarray(contact_sheet.contact_sheet(2, 0, "line", width=700, head=head)) for head in ("", "14 typefaces"))
    assert np.array_equal(headed[contact_sheet.HEAD :], bare), "below the band nothing changes"
    assert len(np.unique(headed[: contact_sheet.HEAD].reshape(-1, 3), axis=0)) > 5


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(UsageError, match="expected one of line, long_line, region, tile"):
        sample(0, "page")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="size_px is"):
        sample(0, "line", size_px=(20, 10))
    with pytest.raises(DataError, match="can't load the font /nowhere.ttf"):
        typefaces.face("/nowhere.ttf", 12.0)
