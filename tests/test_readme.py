"""What README and CONTRIBUTING tell people to type and to open is there: commands, options, recipes, paths, stages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from poise.cli.main import app, main
from poise.models.bundled import BUNDLED
from poise.pipeline.stages import STAGES

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
UsageError = typer.BadParameter.__base__  # of the click that typer uses, whichever that is
FREE = (["validate"], ["models", "list"])
"""Verbs that the test runs as written: they load no model and write nothing."""


def shell_lines(text: str) -> list[str]:
    """The commands of a page: lines of its bash blocks, and code in running text that starts with poise or make."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:poise|make) [^`\n]+)`", prose)
    return [line for block in blocks for line in block.splitlines() if line.strip()] + inline


COMMANDS = sorted({line for page in PAGES for line in shell_lines((ROOT / page).read_text(encoding="utf-8"))})
POISE = [line for line in COMMANDS if line.startswith("poise ")]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
SCRIPTS = [line for line in COMMANDS if line.startswith("python benchmarks/")]


def parse(words: list[str]) -> list[str]:
    """Parse `poise WORDS` without running it; returns the verb.

    Raises:
        UsageError: an unknown verb or option, a missing argument.
    """
    command: Any = typer.main.get_command(app)
    verb: list[str] = []
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise typer.BadParameter(f"no command {' '.join([*verb, *rest[:1]])}")
        verb.append(rest.pop(0))
        command = command.commands[verb[-1]]
    command.make_context(verb[-1], rest)
    return verb


def table(title: str) -> list[list[str]]:
    """Cells of the first table under a heading of the README, without its head."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_command_is_of_a_known_kind() -> None:
    assert len(POISE) >= 7 and len(MAKE) >= 3
    assert set(COMMANDS) == {*POISE, *MAKE, *SCRIPTS}


@pytest.mark.parametrize("line", MAKE)
def test_make_targets_exist(line: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(line, comments=True)[1:]
    assert words and set(words) <= set(targets)


@pytest.mark.parametrize("line", SCRIPTS)
def test_benchmarks_exist_and_know_their_options(line: str) -> None:
    words = shlex.split(line)
    text = (ROOT / words[1]).read_text(encoding="utf-8")
    assert all(f'"{word}"' in text for word in words if word.startswith("--"))


@pytest.mark.parametrize("line", POISE)
def test_poise_commands_are_true(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every line parses and names recipes and models that exist; `run` is run dry, so its settings are checked too."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)[1:]
    verb = parse(words)
    assert all(Path(word).is_file() for word in words if word.endswith(".yaml"))
    if "DIR" in line:
        return  # the reader's own folder: parsed, but there is nothing to run it on
    if verb == ["run"]:
        assert main([*words, "--dry-run", "--out", str(tmp_path / "run")]) == 0
        assert list(tmp_path.iterdir()) == []
    elif verb in FREE:
        assert main(words) == 0
    elif verb[0] == "models":
        assert words[2:] and set(words[2:]) <= set(BUNDLED)


@pytest.mark.parametrize("line", ["poise", "poise rnu x.yaml", "poise models", "poise run", "poise run x.yaml --dry"])
def test_the_parser_refuses(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line.split()[1:])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_in_the_readme(recipe: Path) -> None:
    assert main(["validate", str(recipe)]) == 0
    assert f"recipes/{recipe.name}" in README


def test_the_table_of_stages_follows_the_code() -> None:
    named = [row[0].strip("`") for row in table("The loop")]
    assert named == [name for name in STAGES if name != "sources"]  # `sources` stands in for the first two


@pytest.mark.parametrize("path", [row[1].strip("`") for row in table("Where to look")])
def test_where_to_look(path: str) -> None:
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() == path.endswith("/")
