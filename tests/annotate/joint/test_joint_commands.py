"""`poise annotate init` with a joint policy, and `poise annotate joint` with its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.annotate.joint import report
from poise.annotate.store import AnnotationStore, JointPolicy
from poise.cli.main import main
from poise.data.records import QARecord
from poise.data.tables import TableWriter

from ..store.conftest import SERVER, fresh_database  # noqa: TID252
from .simulate import Population, make_store, work


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which everybody has finished."""
    told = {"suggester": "judge", "control_share": 0.3, "plant_share": 0.2, "audit_share": 0.5}
    joint, folder = JointPolicy.model_validate({"mode": "blind_then_reveal", **told}), tmp_path_factory.mktemp("store")
    made, truth = make_store(folder, joint, items=40, model_error=0.3)
    with made:
        work(made, truth, Population(error=0.1, bias=0.5, people=4), 1)
    return str(folder / "store.db")


def test_the_report_as_table_json_and_picture(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "new" / "joint.json", tmp_path / "joint.png"
    assert main(["annotate", "joint", store, "--out", str(out), "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    for line in ("person alone", "model judge", "automation bias", "reveal: right kept", "rater, on safe"):
        assert line in said
    told = json.loads(out.read_text())
    assert told["joint"]["mode"] == "blind_then_reveal" and told["reference"] == "audited"
    assert [v["name"] for v in told["questions"][0]["variables"]] == ["safe", "severity", "categories"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joint.png", "new"]
    assert main(["annotate", "joint", store, "--plot", str(tmp_path / "joint.svg")]) == 0
    first = (tmp_path / "joint.svg").read_bytes()
    assert main(["annotate", "joint", store, "--plot", str(tmp_path / "joint.svg"), "--force"]) == 0
    assert first.startswith(b"<?xml") and first == (tmp_path / "joint.svg").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "joint.txt"], "no .json file"),
        (["--plot", "joint.pdf"], "no .png or .svg file"),
        (["--out", "there.json"], "is there already"),
    ],
)
def test_files_that_cannot_be_are_refused_first(
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("mine")
    assert main(["annotate", "joint", store, *words]) == 2
    told = capsys.readouterr()
    assert message in told.err and not told.out and Path("there.json").read_text() == "mine"


def test_a_store_without_audits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        writer.add(QARecord(prompt="q", response="a"))
    where = str(tmp_path / "s.db")
    assert main(["annotate", "init", where, str(tmp_path / "rows")]) == 0
    assert main(["annotate", "joint", where]) == 0
    assert "are no fair sample" in capsys.readouterr().out
    assert main(["annotate", "joint", where, "--reference", "audited"]) == 2
    assert "audits no items" in capsys.readouterr().err


def test_init_takes_the_usual_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        writer.add(QARecord(prompt="q", response="a"))
    rows, where = str(tmp_path / "rows"), str(tmp_path / "s.db")
    words = ["annotate", "init", where, rows, "--mode", "assist", "--suggester", "judge"]
    assert main([*words, "--plant-share", "0.03", "--seed", "5"]) == 0
    with AnnotationStore.open(where) as store:
        assert store.joint == JointPolicy(
            mode="assist", suggester="judge", control_share=0.2, plant_share=0.03, audit_share=0.1, seed=5
        )
    assert main(words) == 2  # another policy
    assert main(["annotate", "init", str(tmp_path / "t.db"), rows, "--mode", "ai_only"]) == 0
    with AnnotationStore.open(tmp_path / "t.db") as store:
        assert store.joint == JointPolicy(mode="ai_only", audit_share=0.1)
    assert main(["annotate", "init", str(tmp_path / "u.db"), rows, "--control-share", "0.5"]) == 2
    assert "mode human_only shows no suggestion" in capsys.readouterr().err and not (tmp_path / "u.db").exists()
    assert main(["annotate", "init", str(tmp_path / "u.db"), rows, "--mode", "assist"]) == 2
    assert "without a suggester" in capsys.readouterr().err


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a new database on the server that POISE_TEST_POSTGRES names; dropped at the end."""
    if not SERVER:
        pytest.skip("POISE_TEST_POSTGRES names no server")
    with fresh_database(SERVER) as url:
        yield url


@pytest.mark.parametrize("mode", ["assist", "blind_then_reveal"])
def test_both_databases_give_the_same_report(tmp_path: Path, mode: str, database: str) -> None:
    told = {"suggester": "judge", "control_share": 0.3, "plant_share": 0.3, "audit_share": 0.5}
    joint, reports, heads = JointPolicy.model_validate({"mode": mode, **told}), [], []
    for where in (None, database):
        folder = tmp_path / ("postgres" if where else "sqlite")
        made, truth = make_store(folder, joint, items=40, model_error=0.2, where=where)
        with made:
            work(made, truth, Population(error=0.1, bias=0.5, people=4), 1)
            reports.append(report(made) | {"store": ""})
            heads.append(made.verify().head)
    assert reports[0] == reports[1] and heads[0] == heads[1] and reports[0]["drawn"]["planted"] > 0
