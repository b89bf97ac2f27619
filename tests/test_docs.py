"""Every command of the documentation is run, in the order of its page, as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.cli.main import main
from poise.data.rules import RULES
from poise.data.tables import open_tables
from poise.guard.others import FAMILIES

DOCS = Path(__file__).parents[1] / "docs"
EXIT = {"contamination": 4}
"""Commands that are meant to find something; a release of the same prompts overlaps with them."""
LEAST = {"data": 10, "guard-serving": 0}
"""Commands that a page has at least; 1 where it is not said. Those on a trained guard run in `tests/guard/fast`."""
ADDRESS = "http://127.0.0.1:8000/v1"
"""Where the pages suppose the fake server."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where it is in fact."""
    command = [sys.executable, "-m", "poise.llm.fake"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


def commands(page: Path) -> list[list[str]]:
    """The `poise` lines of the bash blocks, but for those on the reader's own files (DIR)."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("poise ") and "DIR" not in line]
    return [shlex.split(line)[1:] for line in lines]


def files(page: Path) -> list[tuple[str, str]]:
    """Name and content of the YAML blocks that begin with a file's name."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(block.splitlines()[0].removeprefix("# "), block) for block in blocks if block.startswith("# ")]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files(page):
        Path(name).write_text(text.replace(ADDRESS, url), encoding="utf-8")
    found = commands(page)
    assert len(found) >= LEAST.get(page.stem, 1)
    for words in ([word.replace(ADDRESS, url) for word in told] for told in found):
        assert (main(words), words) == (EXIT.get(words[1], 0), words)


def test_the_python_of_the_raters_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "raters.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert main(["data", "synth", "--out", "work/raw", "--scale", "0.0005"]) == 0
    exec(source.replace(ADDRESS, url), {})
    assert open_tables(Path("work/mine"))["judgements"].rows > 100


def test_the_python_of_the_guards_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "guards.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(source, {})
    assert capsys.readouterr().out.startswith("False {'calm': '0.969054'")


def test_the_guards_page_lists_all_guards() -> None:
    text = (DOCS / "guards.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    missing = [name for name in FAMILIES if f"`{name}`" not in rows and f"`-{name.split('-', 2)[-1]}`" not in rows]
    assert missing == ["llama-guard-2", "llama-guard-3"]  # inside "1 ... 4"


def test_the_python_of_the_agreement_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "agreement.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for words in commands(DOCS / "agreement.md")[:3]:
        assert main([word.replace(ADDRESS, url) for word in words]) == 0
    exec(source, {})
    assert "Estimate(value=" in capsys.readouterr().out


def test_the_mapping_of_the_page_reads_a_file(tmp_path: Path) -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    (mapping,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "mapping.yaml").write_text(mapping, encoding="utf-8")
    (tmp_path / "rows.csv").write_text("question,answer,verdict\nWhat is tea?,A drink.,ok\n", encoding="utf-8")
    words = ["data", "read", str(tmp_path / "rows.csv"), "--mapping", str(tmp_path / "mapping.yaml")]
    assert main([*words, "--out", str(tmp_path / "mine")]) == 0


def test_the_page_lists_all_rules() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    section = text.split("\n## Rules\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == list(RULES)
