"""Documents: a seed is a document, print is where its labels say, sizes are as asked for, what is held out stays out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from minimonkey.errors import UsageError
from minimonkey.synthetic import document
from minimonkey.synthetic.material import typefaces, words
from minimonkey.synthetic.material.content import Author
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.questions import Asker
from minimonkey.synthetic.rendering.layout import Layout

Make = Callable[..., document.Document]
PRINTABLE = set(words.ALPHABET) - set(typefaces.PILLOW.lacks)


@pytest.mark.parametrize("kind", document.KINDS)
def test_a_seed_is_a_document(make: Make, kind: str) -> None:
    one, again, other = make(5, kind), make(5, kind), make(6, kind)
    assert one.picture.tobytes() == again.picture.tobytes() and one.picture.mode == "RGB"
    assert (one.text, one.questions) == (again.text, again.questions)
    assert one.text != other.text
    assert one.kind == kind
    assert make(5, kind, split="held_out").text != one.text


def test_any_kind_is_drawn(make: Make) -> None:
    kinds = {make(seed, size_px=(9, 10)).kind for seed in range(40)}
    assert len(kinds) >= 7 and kinds <= set(document.KINDS)


def test_a_poster_whose_heading_takes_all_its_lines(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line was left for the words below: such seeds ended a training run."""
    monkeypatch.setattr(Author, "heading", lambda self: " ".join(["bade gike lomo"] * 8))
    for seed in (1, 12, 17, 29):
        assert len(make(seed, "sign", size_px=(9, 12), lines=(5, 6)).lines) >= 6


@pytest.mark.parametrize("kind", document.KINDS)
def test_sizes_are_those_asked_for(documents: dict[str, list[document.Document]], make: Make, kind: str) -> None:
    for made in documents[kind]:
        assert 300 <= max(made.picture.size) <= 1800
        for line in made.lines:
            assert 9 <= line.em_px <= 24
            assert 0.35 < line.x_height_px / line.em_px < 0.75
    for seed in range(2):
        small = make(seed, kind, size_px=(14, 30), max_side_px=640)
        assert max(small.picture.size) <= 640
        assert all(14 <= line.em_px <= 30 for line in small.lines)


@pytest.mark.parametrize("kind", document.KINDS)
def test_characters_are_inside_and_in_the_typeface(documents: dict[str, list[document.Document]], kind: str) -> None:
    for made in documents[kind]:
        for line in made.lines:
            left, top, right, bottom = line.box
            assert 0 <= left < right <= made.picture.width and 0 <= top < bottom <= made.picture.height
            assert line.centers.shape == line.edges.shape == (len(line.text), 2)
            assert np.all((line.centers >= 0) & (line.centers <= made.picture.size))
            assert set(line.text) <= PRINTABLE and line.text == " ".join(line.text.split())


@pytest.mark.parametrize("kind", document.KINDS)
def test_ink_is_where_the_labels_say(make: Make, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A character's box holds both light and dark; painted without its rows, the sheet is even there."""
    monkeypatch.setattr(document, "worn", lambda dice, picture, *_: picture)
    shown = [make(seed, kind, size_px=(16, 30)) for seed in range(2)]
    monkeypatch.setattr(document.Sheet, "paint", blank)
    for made, bare in zip(shown, [make(seed, kind, size_px=(16, 30)) for seed in range(2)], strict=True):
        assert made.text == bare.text
        printed = np.abs(np.asarray(made.picture, np.int16) - np.asarray(bare.picture, np.int16)).max(axis=2)
        rng = np.random.default_rng(0)
        for line in made.lines:
            index = int(rng.integers(len(line.text)))
            if line.text[index] in " .,-'\"`:;*":
                continue
            (left, right), y = line.edges[index], line.centers[index, 1]
            reach = 0.5 * line.em_px
            part = printed[int(max(0, y - reach)) : int(y + reach), int(max(0, left - 1)) : int(right + 2)]
            assert part.max() > 30, (line.text, index)


def blank(sheet: document.Sheet, paper: tuple[int, int, int]) -> Image.Image:
    """`Sheet.paint` without text."""
    bare = document.Sheet(sheet.width)
    bare.height, bare._shapes = sheet.height, sheet._shapes
    return PAINT(bare, paper)


PAINT = document.Sheet.paint


@pytest.mark.parametrize("kind", ["receipt", "invoice", "form", "table"])
@pytest.mark.parametrize("lines", [(5, 20), (30, 60)])
def test_lines_are_about_as_many_as_asked_for(make: Make, kind: str, lines: tuple[int, int]) -> None:
    counts = [len(make(seed, kind, lines=lines, size_px=(9, 12)).lines) for seed in range(8)]
    slack = 6 if lines == (5, 20) else 3
    assert all(lines[0] - 2 <= count <= lines[1] + slack for count in counts), counts
    assert len(set(counts)) > 3


def test_uniform_sizes_are_spread(make: Make) -> None:
    ems = [np.median([line.em_px for line in make(seed, "sign", uniform=True).lines]) for seed in range(40)]
    assert np.histogram(ems, [9, 20, 30, 41])[0].min() >= 5


def test_a_family_of_each_kind_is_held_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def write(page: Layout, lines: int) -> None:
        seen.append(page.family)
        document.signs.sign(page, lines)

    for kind, sort in document.SORTS.items():
        assert len(set(sort.families)) == len(sort.families) >= 5, kind
    for kind in ("receipt", "sign"):
        sort = document.SORTS[kind]
        sign = document.SORTS["sign"]._replace(write=write, families=sort.families)
        monkeypatch.setitem(document.SORTS, "sign", sign)
        for split, families in (("train", set(sort.families[:-1])), ("held_out", set(sort.families))):
            seen.clear()
            for seed in range(30):
                make(seed, "sign", split=split, size_px=(9, 10))
            assert set(seen) == families, (kind, split)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_names_and_goods_keep_to_the_split(vocabulary: Callable[..., words.Vocabulary], split: typefaces.Split) -> None:
    for language in ("en", "fr"):
        author = Author(Dice(np.random.default_rng(1)), vocabulary(split), language)
        written = [author.item() for _ in range(80)] + [author.person() for _ in range(60)] + [author.town() for _ in range(40)]
        plain = {word for text in written for word in re.split(r"[^\w']", text) if len(word) > 3 and word.isalpha()}
        plain -= {"small", "pack", "Hill", "Port", "Saint"}
        made = {word for word in plain if not word.endswith(("ton", "field", "bury"))}
        assert len(made) > 60
        assert not [word for word in made if words.is_held_out(word) != (split == "held_out")]


def test_paragraphs_can_be_told_apart(make: Make, askers: list[Asker]) -> None:
    """Where they are counted, a paragraph begins further in or lower than its rows follow one another, or below a coloured head."""
    indented = spaced = 0
    for seed in range(40):
        make(seed, "page", size_px=(12, 16), lines=(8, 30))
        sheet = askers[-1].sheet
        inks = {id(run): ink for ink, runs in sheet._runs.items() for run in runs}
        for region in askers[-1].facts.regions:
            first, second = (sheet.rows[region.first + index][0] for index in (0, 1))
            px, above = first.face.px, sheet.rows[region.first - 1][0] if region.first else None
            inward = first.x - second.x > px
            apart = above is None or first.baseline - above.baseline > second.baseline - first.baseline + 0.25 * px
            headed = above is not None and (above.face is not first.face or inks[id(above)] != inks[id(first)])
            assert inward or apart or headed, (seed, region)
            assert first.x + first.advances[-1] <= sheet.width
            indented, spaced = indented + inward, spaced + apart
    assert indented > 10 and spaced > 20


def test_labels_say_their_weight_once(make: Make, askers: list[Asker]) -> None:
    """Where the title names a measure, no weight is printed; elsewhere it may be."""
    weighed = measured = 0
    for seed in range(80):
        texts = [line.text for line in make(seed, "label", size_px=(9, 12)).lines]
        fields = {field.key: field for field in askers[-1].facts.fields}
        weighed += "weight" in fields
        if "title" in fields and any(character.isdigit() for character in texts[fields["title"].value[0].line]):
            assert "weight" not in fields
            measured += 1
    assert weighed > 5 and measured > 2


def test_blocks_are_called_what_they_are(make: Make, askers: list[Asker]) -> None:
    """The seller's block begins with the name; at the foot of a receipt there is an address alone; a poster's prose ends it."""
    seen = Counter()
    for seed in range(60):
        kind = "receipt" if seed % 2 else "sign"
        made = make(seed, kind, split="held_out", size_px=(9, 12), lines=(8, 20) if seed % 2 else (6, 10))
        for region in askers[-1].facts.regions:
            names = [field.value[0].line for field in askers[-1].facts.fields if field.key == "seller"]
            if region.key == "seller":
                assert region.first in names
            elif region.key in ("address", "bottom"):
                assert region.first not in names and region.last == len(made.lines) - 1
            assert kind == "receipt" or region.key != "text"
            seen[region.key] += 1
    assert min(seen[key] for key in ("seller", "address", "bottom")) >= 3


def test_print_can_be_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ink and what it is printed on are apart by the contrast that its size needs."""
    monkeypatch.setattr(document, "worn", lambda dice, picture, *_: picture)
    for seed in range(20):
        made = make(seed, size_px=(18, 24))
        grey = np.asarray(made.picture.convert("L"), np.int16)
        for line in made.lines:
            left, top, right, bottom = (round(edge) for edge in line.box)
            part = grey[top:bottom, left:right]
            assert part.max() - part.min() > 50, (seed, line.text)


def test_wrong_settings_are_one_line(make: Make) -> None:
    with pytest.raises(UsageError, match="unknown kind of document 'recept'; the nearest is 'receipt'"):
        make(0, "recept")
    with pytest.raises(UsageError, match="size_px is"):
        make(0, size_px=(20, 10))
    with pytest.raises(UsageError, match="lines is"):
        make(0, lines=(0, 3))
    with pytest.raises(UsageError, match="max_side_px is 200: expected 300"):
        make(0, max_side_px=200)
    with pytest.raises(UsageError, match="most_questions is 3: expected 6 or more"):
        make(0, most_questions=3)
