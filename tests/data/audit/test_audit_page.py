"""The page and the table show the numbers, hold no text of the data and take hostile names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from poise.data.audit import audit, render_page, render_table, write_audit
from poise.data.records import PartialLabel, PromptRecord, QARecord
from poise.data.tables import Tables
from poise.errors import PoiseError

from .conftest import PAIRS, SAFE, harm, text

HOSTILE = "<script>alert(1)</script> $x$ $\\bad{ ]]> --> \x1b[31m\u202e &amp; '\"" + "long " * 40


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(found: dict) -> str:
    return render_page(found, "A dozen")


def test_the_page_is_one_file_that_asks_for_nothing(page: str) -> None:
    parsed = Parsed(page)
    assert not {"script", "img", "image", "link", "iframe", "object"} & set(parsed.tags)
    outside = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href") and value]
    assert all(value.startswith("#") for value in outside)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    assert "default-src 'none'" in page and 'lang="en"' in page and "viewport" in page


def test_pictures_are_sound_and_ids_are_unique(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(pictures) == 7
    for picture in pictures:
        root = ElementTree.fromstring(picture.replace("xlink:href", "href"))
        assert root.attrib["role"] == "img"
        assert root[0].tag == "title" and root[0].attrib["id"] == root.attrib["aria-labelledby"] and root[0].text
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_same_audit_gives_the_same_page(found: dict, page: str) -> None:
    assert render_page(json.loads(json.dumps(found)), "A dozen") == page


def test_numbers_are_on_the_page_and_in_the_table(found: dict, page: str) -> None:
    shown, table = " ".join(Parsed(page).text.split()), " ".join(render_table(found).split())
    for words in (
        "27.3% (3 of 11)",  # pairs with one safe response, and a rung of the ladder
        "Physical Harm + Violence 0.34 0.42 0.25 1.00 2",
        "33.3% (1 of 3)",  # follows better
        "30.0% (3 of 10)",  # the longer one is safer
    ):
        assert words in shown and words in table
    assert "40.9% (9 of 22)" in shown and "safe 9 2" in table  # safe answers of pairs, and of the others
    assert max(len(line) for line in render_table(found).splitlines()) <= 100


def test_no_text_of_the_data_is_quoted(make: Callable) -> None:
    label = PartialLabel(safe=False, categories=("Violence",), severity=2)
    rows = [QARecord(prompt="zebrafinch", response="quokkaword" * 3, label=label) for label in (label, SAFE)]
    found = audit(make([*rows, PromptRecord(prompt="zebrafinch")]))
    for shown in (render_page(found, "t"), render_table(found), json.dumps(found)):
        assert "zebrafinch" not in shown and "quokka" not in shown


@pytest.fixture(scope="module")
def hostile(make: Callable) -> dict:
    label = PartialLabel(safe=False, categories=(HOSTILE,), taxonomy=HOSTILE)
    sources = {"response_source": HOSTILE, "prompt_source": HOSTILE}
    answers = [QARecord(prompt="p", response=text(n), label=label, **sources) for n in (1, 2)]
    pairs = [
        pair.model_copy(update={"response_sources": (HOSTILE, HOSTILE), "prompt_source": HOSTILE}) for pair in PAIRS
    ]
    return audit(make([*answers, *pairs]))


def test_hostile_names_are_escaped_cut_and_cleaned(hostile: dict) -> None:
    page = render_page(hostile, HOSTILE)
    parsed = Parsed(page)
    assert "script" not in parsed.tags and "<script>alert(1)" in parsed.text
    assert "long " * 12 not in page
    for shown in (page, render_table(hostile)):
        assert "\x1b" not in shown and "\u202e" not in shown
    assert max(len(line) for line in render_table(hostile).splitlines()) <= 100


def test_many_names_are_cut_with_a_word(make: Callable) -> None:
    found = audit(make(QARecord(prompt="p", response=text(n), response_source=f"source {n:03}") for n in range(1, 60)))
    assert len(found["lengths"]) == 59
    page, table = render_page(found, "t"), render_table(found)
    assert "and 39 more" in page and "and 39 more" in table and "source 059" not in page


def test_what_is_not_there_reads_so(make: Callable) -> None:
    found = audit(make([PromptRecord(prompt="p")]))
    page = render_page(found, "t")
    assert page.count("not in this data") >= 7 and "<svg" not in page
    table = render_table(found)
    assert re.search(r"Answers\n  not in this data", table) and re.search(r"Pairs\n  not in this data", table)
    assert not re.search(r"\b0\.0%", page + table)


def test_partial_data_renders(make: Callable) -> None:
    label = PartialLabel(safe=False, categories=("Violence",), undecided=("Drugs",))
    page = render_page(audit(make([QARecord(prompt="p", response="a", label=label)])), "t")
    assert "Not told in this data: Drugs." in " ".join(Parsed(page).text.split())


def test_files_are_written_whole_and_replaced(found: dict, tmp_path: Path) -> None:
    write_audit(found, tmp_path / "out", title="First")
    write_audit(found, tmp_path / "out", title="Second")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json", "audit.txt"]
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == found
    assert "<h1>Second</h1>" in (tmp_path / "out" / "audit.html").read_text()
    assert (tmp_path / "out" / "audit.txt").read_text() == render_table(found) + "\n"


def test_a_fault_while_writing_leaves_the_earlier_files(
    found: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audit(found, tmp_path / "out", title="First")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("poise.data.audit.render_page", full)
    with pytest.raises(PoiseError, match="No space left") as fault:
        write_audit(found, tmp_path / "out", title="Second")
    assert fault.value.exit_code == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_text_that_is_no_utf8_is_said_so(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: Tables = make([QARecord(prompt="p", response="a", label=harm(2, "Violence"))])
    file = tables["qa"].files[0]
    rows = pq.read_table(file)
    bad = pa.array([b"\xff\xfe"], type=pa.binary()).view(pa.string())
    place = rows.schema.get_field_index("prompt_source")
    pq.write_table(rows.set_column(place, "prompt_source", bad), file)
    with pytest.raises(PoiseError, match="not valid UTF-8"):
        audit(tables)
