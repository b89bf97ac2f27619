"""Running, skipping, continuing, and what each failure leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toy_stages
from toy_stages import STAGES

import poise
from poise.errors import PoiseError
from poise.pipeline import RunResult, Stage, load_recipe, plan, run
from poise.pipeline import runner as runner_module
from poise.pipeline.lock import locked


def _run(recipe_file: Path, *overrides: str, **options: object) -> RunResult:
    recipe = load_recipe(recipe_file, STAGES, overrides)
    return run(recipe, STAGES, recipe_file.parent.parent / "out", console=lambda text: None, **options)  # type: ignore[arg-type]


def _plan(recipe_file: Path, *overrides: str, **options: bool) -> list[tuple[str, str]]:
    recipe = load_recipe(recipe_file, STAGES, overrides)
    planned = plan(recipe, STAGES, recipe_file.parent.parent / "out", **options)  # type: ignore[arg-type]
    return [(stage.action, stage.why.partition(" 20")[0]) for stage in planned]


def _actions(result: RunResult) -> list[str]:
    return [stage.action for stage in result.stages.values()]


def _events(recipe_file: Path) -> list[dict[str, object]]:
    lines = (recipe_file.parent.parent / "out" / "events.jsonl").read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


def _computed(recipe_file: Path) -> list[int]:
    return [row["fields"]["i"] for row in _events(recipe_file) if row["event"] == "computed"]  # type: ignore[index]


def _outputs(result: RunResult) -> list[str]:
    return [stage.manifest.outputs_sha256 for stage in result.stages.values()]


def test_a_run_folder_holds_what_it_should(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush-hush")
    result = _run(recipe_file)
    files = sorted(path.relative_to(result.out).as_posix() for path in result.out.rglob("*") if path.is_file())
    assert files == [
        ".lock",
        "01-numbers/manifest.json",
        "01-numbers/numbers.json",
        "02-total/deep/total.txt",
        "02-total/manifest.json",
        "03-report/manifest.json",
        "03-report/report.html",
        "events.jsonl",
        "log.txt",
        "recipe.yaml",
    ]
    manifest = json.loads((result.out / "02-total" / "manifest.json").read_text())
    assert manifest["inputs"] == {"numbers": result.stages["numbers"].manifest.outputs_sha256}
    assert list(manifest["outputs"]) == ["deep/total.txt"]
    assert result.stages["numbers"].manifest.summary == {"n": 4, "mean": None}
    assert {"poise", "python", "torch", "numpy"} <= set(manifest["versions"])
    assert load_recipe(result.out / "recipe.yaml", STAGES).settings == load_recipe(recipe_file, STAGES).settings
    assert not any("hush-hush" in (result.out / name).read_text() for name in files)
    assert "report: written" in (result.out / "log.txt").read_text()
    assert [row["event"] for row in _events(recipe_file)][:2] == ["run-start", "stage-run"]


def test_second_run_skips_all(recipe_file: Path) -> None:
    first, second = _run(recipe_file), _run(recipe_file)
    assert (_actions(first), _actions(second)) == (["run"] * 3, ["skip"] * 3)
    assert _outputs(first) == _outputs(second) and len(_computed(recipe_file)) == 4


def test_a_changed_setting_reruns_what_depends_on_it(recipe_file: Path) -> None:
    _run(recipe_file)
    assert _plan(recipe_file, "total.kind=count") == [
        ("skip", "finished"),
        ("run", "kind changed from 'sum' to 'count'"),
        ("unsure", "runs again if total comes out different"),
    ]
    assert _actions(_run(recipe_file, "total.kind=count")) == ["skip", "run", "run"]
    # Other settings, same outputs: what comes after need not run again.
    assert _actions(_run(recipe_file, "total.kind=count", "numbers.tags=[a]")) == ["run", "skip", "skip"]
    assert _plan(recipe_file, "seed=8")[0] == ("run", "tags changed from ['a'] to []")
    assert _plan(recipe_file, "seed=8", "numbers.tags=[a]")[0] == ("run", "seed changed from 7 to 8")
    assert _plan(recipe_file, "models.policy=b/c", "numbers.tags=[a]")[0][1].startswith("model policy changed from")


def test_a_changed_input_or_poise_version_reruns(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(recipe_file)
    _run(recipe_file, "numbers.count=5", only_until="numbers")
    assert _plan(recipe_file, "numbers.count=5")[1:] == [("run", "input numbers changed")] * 2
    manifest = recipe_file.parent.parent / "out" / "01-numbers" / "manifest.json"
    text = manifest.read_text()
    print_ = json.loads(text)["fingerprint"]
    manifest.write_text(text.replace(print_, "0" * 64).replace('"poise": "', '"poise": "0.0.'))
    assert _plan(recipe_file, "numbers.count=5")[0][1].startswith("Poise changed from 0.0.")


def test_a_setting_that_came_with_a_later_poise_reruns_and_is_named(recipe_file: Path) -> None:
    manifest = _run(recipe_file).out / "01-numbers" / "manifest.json"
    old = json.loads(manifest.read_text())
    del old["settings"]["tags"]
    manifest.write_text(json.dumps(old | {"fingerprint": "0" * 64}))
    assert _plan(recipe_file)[0] == ("run", "tags is a new setting")


def test_a_model_folder_that_was_trained_again_reruns(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-sft"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"old")
    mine = f"models.policy={folder}"
    first = _run(recipe_file, mine)
    assert set(first.stages["numbers"].manifest.inputs) == {"model policy"}
    assert _actions(_run(recipe_file, mine)) == ["skip"] * 3
    (folder / "model.safetensors").write_bytes(b"new")
    assert _plan(recipe_file, mine)[0] == ("run", "input model policy changed")
    stop = recipe_file.parent / "raise-at-2"
    stop.write_text("interrupt")
    with pytest.raises(PoiseError):
        _run(recipe_file, mine)
    stop.unlink()
    assert _plan(recipe_file, mine)[0] == ("continue", "interrupted earlier")
    (folder / "model.safetensors").write_bytes(b"newer")  # parts of two models in one stage would be of neither
    assert _plan(recipe_file, mine)[0] == ("run", "input model policy changed")


def test_outside_the_main_thread_signals_are_left_alone(recipe_file: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert _actions(pool.submit(_run, recipe_file).result()) == ["run"] * 3


def test_until(recipe_file: Path) -> None:
    assert list(_run(recipe_file, only_until="total").stages) == ["numbers", "total"]
    with pytest.raises(PoiseError, match=r"--until: no stage 'totla' in this recipe \(try total\)"):
        _run(recipe_file, only_until="totla")


def test_damaged_outputs_are_noticed(recipe_file: Path) -> None:
    first = _run(recipe_file)
    numbers = first.out / "01-numbers" / "numbers.json"
    good = numbers.read_text()
    numbers.write_text(good.replace("7", "6"))
    assert _plan(recipe_file)[0] == ("skip", "finished")  # same size: only --verify can tell
    assert _plan(recipe_file, verify=True)[0] == ("run", "numbers.json was altered")
    numbers.write_text(good[:-3])
    assert _plan(recipe_file)[0] == ("run", f"numbers.json has {len(good) - 3} bytes instead of {len(good)}")
    numbers.unlink()
    assert _plan(recipe_file)[0] == ("run", "numbers.json is missing")
    again = _run(recipe_file)
    assert _actions(again) == ["run", "skip", "skip"] and _outputs(again) == _outputs(first)
    manifest = first.out / "01-numbers" / "manifest.json"
    text = manifest.read_text()
    size = f'"bytes": {len(good)}'
    assert size in text
    manifest.write_text(text.replace(size, '"bytes": 1'))
    assert _plan(recipe_file)[0] == ("run", "manifest.json was altered")
    manifest.write_text(text[:100])
    assert _plan(recipe_file)[0] == ("run", "manifest.json is damaged")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_killed_run_continues_with_its_parts(recipe_file: Path, number: int, code: int) -> None:
    pause = recipe_file.parent / "pause-at-2"
    pause.touch()
    out = recipe_file.parent.parent / "out"
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a script's & ignores it
        "import poise.cli.run as r; from toy_stages import STAGES; r.STAGES = STAGES;"
        f"from poise.cli.main import main; sys.exit(main(['run', {str(recipe_file)!r}, '--out', {str(out)!r}]))"
    )
    paths = [str(Path(poise.__file__).parents[1]), str(Path(toy_stages.__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 15
    while not ((out / "events.jsonl").exists() and '"paused"' in (out / "events.jsonl").read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    with pytest.raises(PoiseError, match=f"another run .process {process.pid}. is working in this folder"):
        _run(recipe_file)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code
    if code > 0:
        assert errors.decode().splitlines()[-1] == "error: stage numbers: interrupted (run again to continue)"
    assert not (out / "01-numbers").exists()

    pause.unlink()
    assert _plan(recipe_file)[0] == ("continue", "interrupted earlier")
    continued = _run(recipe_file)
    assert _actions(continued) == ["continue", "run", "run"]
    assert sorted(_computed(recipe_file)) == [0, 1, 2, 3]  # none twice
    assert continued.stages["numbers"].manifest.continued
    recipe = load_recipe(recipe_file, STAGES)
    whole = run(recipe, STAGES, recipe_file.parent.parent / "whole", console=lambda text: None)
    assert _outputs(continued) == _outputs(whole)


def test_a_partial_folder_of_another_recipe_is_not_continued(recipe_file: Path) -> None:
    stop = recipe_file.parent / "raise-at-2"
    stop.write_text("interrupt")
    with pytest.raises(PoiseError):
        _run(recipe_file)
    stop.unlink()
    result = _run(recipe_file, "numbers.scale=2")
    assert _actions(result)[0] == "run"
    assert _computed(recipe_file) == [0, 1, 0, 1, 2, 3]
    assert json.loads((result.stages["numbers"].folder / "numbers.json").read_text()) == [14, 16, 18, 20]


@pytest.mark.parametrize("kill_at", ["publish", "rename"])
def test_a_kill_around_the_last_rename_costs_nothing(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, kill_at: str
) -> None:
    old = _run(recipe_file)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if kill_at == "publish":
            patch.setattr(runner_module, "_publish", die)
        else:  # the old folder is already out of the way
            real = Path.rename
            patch.setattr(Path, "rename", lambda path, to: die() if path.name.endswith(".partial") else real(path, to))
        with pytest.raises(PoiseError):
            _run(recipe_file, "numbers.scale=2")
    result = _run(recipe_file, "numbers.scale=2")
    assert _actions(result) == ["continue", "run", "run"]
    assert _computed(recipe_file) == [0, 1, 2, 3] * 2 and _outputs(result) != _outputs(old)
    assert sorted(path.name for path in result.out.glob(".*")) == [".lock"]


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("full", 3, "stage numbers: no space left on the disk of /somewhere/big.bin (free some space"),
        ("full-in-words", 3, "stage numbers: no space left on the disk of OUT (free some space"),
        ("denied", 3, "stage numbers: Permission denied (/somewhere/closed) (check the permissions"),
        ("memory", 3, "stage numbers: out of memory (close other programs"),
        ("torch-memory", 3, "stage numbers: out of memory (close other programs"),
        ("interrupt", 130, "stage numbers: interrupted (run again to continue)"),
        ("user", 2, "numbers.data: no such data set 'x' (name another)"),
    ],
)
def test_failures_of_the_environment_are_explained_and_can_be_continued(
    recipe_file: Path, kind: str, code: int, message: str
) -> None:
    stop = recipe_file.parent / "raise-at-2"
    stop.write_text(kind)
    with pytest.raises(PoiseError) as caught:
        _run(recipe_file)
    out = recipe_file.parent.parent / "out"
    assert str(caught.value).replace(str(out), "OUT").startswith(message) and caught.value.exit_code == code
    assert "Traceback" in (out / "log.txt").read_text()
    assert _events(recipe_file)[-1]["event"] == "stage-failed"
    stop.unlink()
    assert _actions(_run(recipe_file))[0] == "continue" and _computed(recipe_file) == [0, 1, 2, 3]


def test_a_full_disk_while_the_runner_writes(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise toy_stages.ERRORS["full"]

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(PoiseError, match="no space left") as caught:
            _run(recipe_file)
    assert caught.value.exit_code == 3
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)  # a library that fails without saying why
    (recipe_file.parent / "raise-at-0").write_text("bug")
    with pytest.raises(PoiseError, match="no space left"):
        _run(recipe_file)


def test_a_bug_keeps_its_type_and_names_the_log(recipe_file: Path) -> None:
    (recipe_file.parent / "raise-at-1").write_text("bug")
    with pytest.raises(KeyError) as caught:
        _run(recipe_file)
    log = recipe_file.parent.parent / "out" / "log.txt"
    assert caught.value.__notes__ == [f"traceback in {log}"] and "KeyError: 'oops'" in log.read_text()


def test_a_file_in_place_of_the_run_folder(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(PoiseError, match="a file is in the way") as caught:
        _run(recipe_file)
    assert caught.value.exit_code == 3


def test_lock_is_free_again_after_use(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(PoiseError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_stages_keep_their_results_when_their_number_changes(recipe_file: Path) -> None:
    extra = Stage("extra", toy_stages.Report, (), lambda context, settings: {})
    table, text = {"extra": extra, **STAGES}, recipe_file.read_text()
    first = _run(recipe_file)
    (first.out / ".02-total.partial").mkdir()
    recipe_file.write_text(text + "extra: {}\n")
    recipe = load_recipe(recipe_file, table)
    assert [stage.action for stage in plan(recipe, table, first.out)] == ["run", "skip", "skip", "skip"]
    again = run(recipe, table, first.out, console=lambda line: None)
    assert _actions(again) == ["run", "skip", "skip", "skip"]
    assert sorted(path.name for path in first.out.iterdir() if path.is_dir()) == [
        ".03-total.partial",
        "01-extra",
        "02-numbers",
        "03-total",
        "04-report",
    ]
    assert again.stages["report"].folder == first.out / "04-report"


def test_a_stage_whose_input_is_not_in_the_recipe(recipe_file: Path) -> None:
    recipe_file.write_text("name: toy\nreport: {}\n")
    with pytest.raises(
        PoiseError, match=r"needs stage 'total', which is not in the recipe \(add a section `total: {}`"
    ):
        _run(recipe_file)
