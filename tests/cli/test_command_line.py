"""The `poise` command: what it prints and the code it leaves with."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from toy_stages import STAGES

import poise
from poise.cli.main import main
from poise.errors import PoiseError


@pytest.fixture(autouse=True)
def _toy_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("poise.cli.run.STAGES", STAGES)
    monkeypatch.chdir(tmp_path)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"poise {poise.__version__}\n"
    assert main(["--help"]) == 0 and "validate" in capsys.readouterr().out
    assert main(["run"]) == 2 and "RECIPE" in capsys.readouterr().err


def test_run_then_run_again(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_file)]) == 0
    report = Path("runs", "toy", "03-report", "report.html")
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {report}" and report.is_file()
    assert main(["run", str(recipe_file), "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:13] for line in lines[:2]] == ["skip  numbers", "skip  total  "] and lines[-1] == f"report: {report}"
    assert main(["run", str(recipe_file), "--until", "total", "--out", "other"]) == 0
    assert "report:" not in capsys.readouterr().out and not Path("other", "03-report").exists()


def test_dry_run_writes_nothing(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_file), "--dry-run", "--set", "total.kind=count"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run       numbers  (not run yet)",
        "          numbers.count = 4",
        "run       total  (not run yet)",
        "          total.kind = 'count'",
        "run       report  (not run yet)",
    ]
    assert not Path("runs").exists()
    main(["run", str(recipe_file)])
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    capsys.readouterr()
    assert main(["run", str(recipe_file), "--dry-run", "--set", "numbers.scale=2"]) == 0
    actions = [line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert actions == ["run", "run?", "run?"]
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_validate(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(recipe_file)]) == 0
    assert capsys.readouterr().out == f"{recipe_file}: valid; stages numbers, total, report\n"
    assert main(["validate", str(recipe_file), "--set", "numbers.cuont=3"]) == 2
    message = f"error: {recipe_file}: --set numbers.cuont=3: numbers.cuont: unknown key; did you mean 'count'?\n"
    assert capsys.readouterr().err == message


def test_starting_loads_no_model_library_and_takes_less_than_a_second() -> None:
    source = str(Path(poise.__file__).parents[1])
    script = (
        f"import sys; sys.path.insert(0, {source!r}); from poise.cli.main import main; main(['validate', 'none.yaml']);"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and "no such file" in done.stderr
    assert time.perf_counter() - begin < 3  # 0.3 s on an idle machine; slack for a busy one


def test_a_bug_is_one_line_and_debug_shows_it_all(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe_file.parent / "raise-at-0").write_text("bug")
    assert main(["run", str(recipe_file)]) == 1
    log = Path("runs", "toy", "log.txt")
    assert capsys.readouterr().err == f"error: KeyError: 'oops' (traceback in {log})\n"
    with pytest.raises(KeyError):
        main(["run", str(recipe_file), "--debug"])
    (recipe_file.parent / "raise-at-0").write_text("memory")
    assert main(["run", str(recipe_file)]) == 3
    with pytest.raises(PoiseError):
        main(["--debug", "run", str(recipe_file)])


def test_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = ModuleType("poise.models.bundled")
    model = {"name": "tiny", "licence": "MIT", "package": "p", "version": "1", "size_mb": 2, "description": "small"}
    fake.BUNDLED = {"tiny": SimpleNamespace(**model)}  # type: ignore[attr-defined]
    found: dict[str, Path] = {}
    fake.cached_path = found.get  # type: ignore[attr-defined]
    fake.fetch = lambda name: found.setdefault(name, Path("cache", name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "poise.models.bundled", fake)
    assert main(["models", "path", "tiny"]) == 2
    assert capsys.readouterr().err == "error: model tiny is not on this machine (poise models fetch tiny)\n"
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out == "tiny  2 MB  MIT  p==1\n    small\n    not fetched\n"
    assert main(["models", "fetch", "tiny"]) == main(["models", "path", "tiny"]) == 0
    assert capsys.readouterr().out == f"{Path('cache', 'tiny')}\n" * 2


def test_train_helpfulness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Path, Path]] = []

    def train(data: Path, out: Path, progress: object) -> dict[str, dict[str, float]]:
        calls.append((data, out))
        return {"toy-set": {"rows_test": 4, "auroc": 0.75}}

    fake = ModuleType("poise.guard.helpfulness_training")
    fake.train_helpfulness = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "poise.guard.helpfulness_training", fake)
    assert main(["guard", "train-helpfulness", "--data", "d"]) == 0
    assert calls == [(Path("d"), Path("helpfulness-head"))]
    assert capsys.readouterr().out.splitlines() == [
        f"{'toy-set':20s} rows_test 4  auroc 0.75",
        "helpfulness head: helpfulness-head",
    ]
