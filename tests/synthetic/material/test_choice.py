"""What samples are made of: enough comes with minimonkey, more is used where it is, and who asks for all gets all or one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minimonkey.errors import DataError
from minimonkey.synthetic import held_out
from minimonkey.synthetic.material import choice as material
from minimonkey.synthetic.material import typefaces, word_lists, words
from minimonkey.synthetic.rendering import lines

FONTS = Path(typefaces.__file__).parent / "fonts"
SPLITS: tuple[typefaces.Split, ...] = ("train", "held_out")
Paths = set[str]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A machine with none of Debian's packages; fonts whose paths are added are installed."""
    there: Paths = set()
    monkeypatch.setattr(typefaces.os.path, "exists", there.__contains__)
    monkeypatch.setattr(material, "available", typefaces.available.__wrapped__)
    monkeypatch.setattr(material, "missing_lists", lambda: list(word_lists.DICTIONARIES))
    monkeypatch.setattr(material, "missing_books", lambda: list(material.BOOKS))
    monkeypatch.setattr(material, "vocabulary", lambda split, share=None: words.vocabulary(split, None))
    return there


def files(split: typefaces.Split) -> list[str]:
    return [file for typeface in typefaces.catalogue() if typeface.split == split for file in typeface.files]


def test_some_typefaces_come_with_minimonkey() -> None:
    train, held = (typefaces.packaged(split) for split in SPLITS)
    assert (len(train), len(held)) == (14, 6)
    catalogue = {typeface.family: typeface for typeface in typefaces.catalogue()}
    used = [Path(file) for typeface in (*train, *held) for file in typeface.files]
    for typeface in (*train, *held):
        listed = catalogue[typeface.family]
        assert (typeface.split, typeface.licence, typeface.lacks) == (listed.split, listed.licence, listed.lacks)
        assert "GPL" not in typeface.licence, "it would be that of whoever hands minimonkey on"
    fonts = [path for path in FONTS.iterdir() if path.suffix in (".otf", ".ttf")]
    assert sorted(fonts) == sorted(used), "each stands in the catalogue, once"
    assert sum(path.stat().st_size for path in fonts) < 3e6
    assert {"League Mono", "Noto Mono", "JetBrains Mono"} <= {typeface.family for typeface in (*train, *held)}


def test_their_licences_come_with_them() -> None:
    rows = [row.split(" | ") for row in (FONTS / "LICENCES.md").read_text("utf-8").splitlines() if row.startswith("| ")][1:]
    ours = {typeface.family: typeface for split in SPLITS for typeface in typefaces.packaged(split)}
    assert len(rows) == len(ours)
    for row in rows:
        name = row[0].removeprefix("| ")
        typeface = ours[name.removesuffix("*")]
        assert name.endswith("*") == (typeface.split == "held_out")
        assert int(row[1]) == len(typeface.files) and row[3] in typeface.packages
        licence = re.sub(r"[][]|\(.*?\)", "", row[4]).strip().replace(" ", "-")
        assert licence == typeface.licence
        linked = re.search(r"\((\S+\.txt)\)", row[4])
        assert licence in ("Apache-2.0", "public-domain") if linked is None else (FONTS / linked[1]).stat().st_size > 900
        assert row[5].strip(" |")


@pytest.mark.parametrize("split", SPLITS)
def test_they_have_every_character_that_they_do_not_lack(split: typefaces.Split) -> None:
    for typeface in typefaces.packaged(split):
        for file in typeface.files:
            missing = set(typefaces.lacking(typefaces.face(file, 24.0).font, words.ALPHABET))
            assert missing <= set(typeface.lacks), file
        assert not set(typeface.lacks) & set("0123456789.,:ABCXYZabcxyzéüñß€")


@pytest.mark.debian
def test_they_are_those_of_debian() -> None:
    """Byte for byte: where they are installed, the same fonts are drawn with."""
    of_name = {Path(file).name: file for split in SPLITS for file in files(split)}
    for split in SPLITS:
        for file in (file for typeface in typefaces.packaged(split) for file in typeface.files):
            assert Path(file).read_bytes() == Path(of_name[Path(file).name]).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_installed_is_used(bare: Paths, split: typefaces.Split) -> None:
    """Of a family either Debian's files or ours; with all of Debian's it's the catalogue, and nothing of ours is mixed in."""
    available = typefaces.available.__wrapped__
    assert available(split) == typefaces.packaged(split)
    added = next(typeface for typeface in typefaces.catalogue() if typeface.split == split and len(typeface.files) > 3)
    bare.update(added.files[1:3])
    assert {typeface.family: typeface.files for typeface in available(split)} == {
        **{typeface.family: typeface.files for typeface in typefaces.packaged(split)},
        added.family: added.files[1:3],
    }
    bare.update(files("train"), files("held_out"))
    assert available(split) == tuple(typeface for typeface in typefaces.catalogue() if typeface.split == split)


def test_who_asks_for_all_gets_all_or_one_line(bare: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    made = material.material.__wrapped__
    for split in SPLITS:
        assert made("available", split) == made("package", split)
    with pytest.raises(DataError, match="20 typefaces and 8 word lists of the held_out split are missing; install them: apt-get"):
        made("all", "held_out")
    with pytest.raises(DataError, match="125 typefaces, 8 word lists and 7 texts .* debian-faq-nl .* wdutch") as raised:
        material.demand("train")
    assert "\n" not in str(raised.value) and "fonts-karla" not in str(raised.value), "that one is held out"
    bare.update(files("train"))
    monkeypatch.setattr(material, "missing_lists", lambda: ["dutch"])
    monkeypatch.setattr(material, "missing_books", list)
    with pytest.raises(DataError, match=r"with, 1 word list of the train split are missing; install them: apt-get install wdutch$"):
        material.demand("train")
    monkeypatch.setattr(material, "missing_lists", list)
    assert len(made("all", "train").typefaces) == 125


def test_missing_files_name_all_packages_of_a_family(bare: Paths) -> None:
    bare.update(file for file in files("train") if "lobstertwo" not in file)
    assert {"fonts-lobster", "fonts-lobstertwo"} < set(material.Missing.of("train").packages)


def test_frozen_sets_need_everything(bare: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "material", material.material.__wrapped__)
    for frozen in (held_out.held_out_lines, held_out.held_out_documents):
        with pytest.raises(DataError, match="apt-get install fonts-b612"):
            next(iter(frozen(1)))


def test_a_line_says_what_there_is(bare: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    install = "apt-get install $(minimonkey data packages)"
    assert material.summary("train") == f"14 typefaces; Debian has 111 more typefaces, 8 longer word lists and 7 texts: {install}"
    assert material.summary("held_out") == f"6 typefaces; Debian has 14 more typefaces and 8 longer word lists: {install}"
    bare.update(file for file in files("held_out") if "karla" not in file.lower())
    assert material.summary("held_out").startswith("20 typefaces; Debian has 1 fuller typeface and 8 longer")
    bare.update(files("held_out"))
    monkeypatch.setattr(material, "missing_lists", list)
    assert material.summary("held_out") == "20 typefaces, all of the catalogue"


def test_all_packages_have_a_name() -> None:
    names = material.packages()
    assert len(names) == 102 + 8 + 7 and names == sorted(set(names))
    assert {"fonts-karla", "fonts-go", "wdutch", "debian-faq-nl", "debian-reference-pt"} <= set(names)


@pytest.mark.parametrize("name", word_lists.DICTIONARIES)
def test_short_lists(name: str, tmp_path: Path) -> None:
    listed = word_lists.short_list(name).decode().splitlines()
    assert len(listed) > (500 if name == "british-english" else 1300)
    assert listed == sorted(set(listed)) and all(word and not word.isspace() for word in listed)
    assert set("".join(listed)) <= set(words.ASCII[ord("a") - 32 :] + words.ASCII + words.LETTERS)
    assert all(re.fullmatch(words.WORD, word) for word in listed)
    held = [word for word in listed if words.is_held_out(word)]
    assert 0.03 < len(held) / len(listed) < 0.08, "there are words of both splits"
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / name).write_bytes(b"Haus\n")
    assert word_lists.word_list(name, str(tmp_path)) == b"Haus\n"
    assert name not in word_lists.missing_lists(str(tmp_path)) and len(word_lists.missing_lists(str(tmp_path))) == 7
    assert word_lists.word_list(name, None) == word_lists.word_list(name, "/nowhere") == word_lists.short_list(name)


@pytest.mark.parametrize("split", SPLITS)
def test_lines_keep_to_the_words_of_their_split(split: typefaces.Split) -> None:
    """With the words that come with minimonkey, too."""
    listed = {word for name in word_lists.DICTIONARIES for word in word_lists.short_list(name).decode().casefold().split()}
    ours = material.material("package", split)._asdict()
    texts = " ".join(lines.make_sample(seed, "line", split=split, **ours).text for seed in range(300))
    said = {word.casefold() for word in re.findall(words.WORD, texts) if len(word) > 3} & listed
    assert len(said) > 200
    assert all(words.is_held_out(word) == (split == "held_out") for word in said)
