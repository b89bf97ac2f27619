"""The examples of docs/moderation-api.md are run: every curl line, and the Python."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import ScriptedGuard, serving

from poise.serve.apis import APIS
from poise.serve.app import Service

PAGE = (Path(__file__).parents[2] / "docs" / "moderation-api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"
CURLS = [line for line in PAGE.splitlines() if line.startswith("curl ")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Service(ScriptedGuard()).app) as address:
        yield address


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURLS)
def test_the_curl_examples_work(line: str, url: str) -> None:
    words = [word.replace(ADDRESS, url) for word in shlex.split(line)]
    done = subprocess.run([*words, "--fail-with-body"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout
    if "/metrics" in line:
        assert "# TYPE poise_queue_items gauge" in done.stdout
    else:
        assert json.loads(done.stdout)


def test_every_api_has_an_example_and_a_row() -> None:
    for api in APIS:
        assert any(ADDRESS + api.path in line for line in CURLS), api.path
        assert f"| `POST {api.path}" in PAGE


def test_the_python_example_works(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai", reason="the openai SDK is not installed")
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(source.replace(ADDRESS, url), {})
    assert capsys.readouterr().out.splitlines() == ["False none 0.010000000000000009", "pair"]
