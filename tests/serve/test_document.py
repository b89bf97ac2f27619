"""The OpenAPI document: schemathesis finds no answer that it does not promise; the page loads nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedGuard

from poise.serve.apis import APIS
from poise.serve.keys import add_key
from poise.serve.limits import Limits

LIMITS = Limits(items=4, text_characters=200, request_characters=4000, queue_items=64, body_bytes=20_000)


def test_schemathesis_finds_nothing(start: Any, key_file: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    command = Path(sys.executable).with_name("schemathesis")
    program = str(command) if command.exists() else shutil.which("schemathesis")
    if program is None:
        pytest.skip("the command schemathesis is not installed")
    _, token = add_key(key_file, "a", ["moderate", "metrics"], None)
    _, client = start(limits=LIMITS, keys=key_file)
    words = [program, "run", f"{str(client.base_url).rstrip('/')}/openapi.json", "--checks", "all", "--seed", "1"]
    words += ["--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--generation-database", "none"]
    words += ["--warnings", "off", "-H", f"Authorization: Bearer {token}"]
    done = subprocess.run(words, cwd=key_file.parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"{len(APIS) + 4} selected / {len(APIS) + 4} total" in done.stdout  # it leaves out the document itself


def test_the_document_says_what_the_server_asks_for(start: Any, key_file: Path) -> None:
    add_key(key_file, "a", ["moderate"], None)
    keyed = start(keys=key_file)[1].get("/openapi.json").json()
    free = start()[1].get("/openapi.json").json()
    assert keyed["openapi"] == free["openapi"] == "3.1.0"
    operation = keyed["paths"]["/contentsafety/text:analyze"]["post"]
    assert operation["security"] == [{"subscription": []}, {"bearer": []}] and "401" in operation["responses"]
    assert "401" not in free["paths"]["/v1/moderations"]["post"]["responses"]
    assert (
        operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["text"]["maxLength"] == 10_000
    )


def test_the_page_loads_nothing_and_runs_nothing(shared: tuple[ScriptedGuard, Any]) -> None:
    answer = shared[1].get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for api in APIS:
        assert f"POST {api.path}</h2>" in answer.text
    assert "<script" not in answer.text
    assert re.findall(r"(?:src|href)='([^']*)'", answer.text) == ["/openapi.json"]
    assert json.loads(shared[1].get("/openapi.json").text)["info"]["title"] in answer.text
