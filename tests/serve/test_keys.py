"""Keys: what is kept of them, who gets in, how often, and what a running server learns."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from poise.cli.main import main
from poise.errors import PoiseError
from poise.serve.faults import ApiError
from poise.serve.keys import Bucket, Gate, KeyEntry, add_key, read_keys, revoke_key
from poise.serve.limits import Limits


def test_the_command_line_adds_lists_and_revokes(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guard", "keys", "add", str(key_file), "--name", "shop", "--per-minute", "60"]) == 0
    token = capsys.readouterr().out.strip()
    assert token.startswith("poise_") and len(token) == 6 + 43  # 32 bytes in base64
    kept = key_file.read_text()
    assert token not in kept and token[6:] not in kept and key_file.stat().st_mode & 0o777 == 0o600
    assert main(["guard", "keys", "add", str(key_file), "--name", "ops", "--scope", "metrics"]) == 0
    capsys.readouterr()
    assert main(["guard", "keys", "list", str(key_file)]) == 0
    shop, ops = capsys.readouterr().out.splitlines()
    assert "shop: moderate; 60 texts a minute" in shop and "ops: metrics; no limit" in ops
    assert main(["guard", "keys", "revoke", str(key_file), shop.split()[0]]) == 0
    assert [entry.name for entry in read_keys(key_file)] == ["ops"]
    assert main(["guard", "keys", "revoke", str(key_file), shop.split()[0]]) == 2
    assert {path.name for path in key_file.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--name", " "], "--name"),
        (["--name", "a\nb"], "--name"),
        (["--name", "a", "--scope", "all"], "--scope"),
        (["--name", "a", "--per-minute", "0"], "--per-minute"),
    ],
)
def test_wrong_keys_are_not_made(
    key_file: Path, options: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["guard", "keys", "add", str(key_file), *options]) == 2
    assert where in capsys.readouterr().err and not key_file.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [1]}', '{"keys": {"a": 1}}', '{"keys": null}']
)
def test_what_is_no_key_file(key_file: Path, text: str) -> None:
    key_file.write_text(text)
    with pytest.raises(PoiseError, match="no key file"):
        read_keys(key_file)
    with pytest.raises(PoiseError, match="no key file"):
        add_key(key_file, "a", ["moderate"], None)
    assert key_file.read_text() == text


def test_a_file_that_is_not_there_or_empty_opens_no_server(key_file: Path) -> None:
    with pytest.raises(PoiseError, match="can't be read"):
        Gate(key_file)
    key_file.write_text('{"keys": []}')
    with pytest.raises(PoiseError, match="holds no key"):
        Gate(key_file)


def test_the_gate_knows_keys_and_scopes(key_file: Path) -> None:
    entry, token = add_key(key_file, "a", ["moderate"], None)
    gate = Gate(key_file)
    assert gate.enter(token, "moderate") == entry
    for wrong in (None, "", token[:-1], token + "x", token.upper(), "x" * 10_000, entry.sha256, "\ud800"):
        with pytest.raises(ApiError) as caught:
            gate.enter(wrong, "moderate")
        assert caught.value.kind.status == 401
    with pytest.raises(ApiError) as caught:
        gate.enter(token, "metrics")
    assert caught.value.kind.status == 403


def test_the_gate_learns_of_changes_within_a_second_and_shuts_when_it_can_not_read(key_file: Path) -> None:
    now = [0.0]
    first, token = add_key(key_file, "a", ["moderate"], None)
    gate = Gate(key_file, lambda: now[0])
    _, other = add_key(key_file, "b", ["moderate"], None)
    with pytest.raises(ApiError):
        gate.enter(other, "moderate")
    now[0] = 1.0
    gate.enter(other, "moderate")
    revoke_key(key_file, first.id)
    now[0] = 2.0
    with pytest.raises(ApiError):
        gate.enter(token, "moderate")
    key_file.write_text("broken")
    now[0] = 3.0
    with pytest.raises(ApiError) as caught:
        gate.enter(other, "moderate")
    assert caught.value.kind.status == 503
    key_file.unlink()
    with pytest.raises(ApiError):
        gate.enter(other, "moderate")


def test_a_key_that_is_revoked_while_a_server_starts_is_soon_out(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    entry, token = add_key(key_file, "a", ["moderate"], None)
    add_key(key_file, "b", ["moderate"], None)

    def read(path: Path) -> list[KeyEntry]:
        entries = read_keys(path)
        if any(kept.id == entry.id for kept in entries):
            with monkeypatch.context() as patch:
                patch.setattr("poise.serve.keys.read_keys", read_keys)
                revoke_key(path, entry.id)
        return entries

    monkeypatch.setattr("poise.serve.keys.read_keys", read)
    gate = Gate(key_file, lambda: now[0])
    now[0] = 1.0
    with pytest.raises(ApiError):
        gate.enter(token, "moderate")


def test_a_bucket_fills_evenly() -> None:
    bucket = Bucket(60, 0.0)  # one a second
    assert bucket.take(60, 0.0) == 0
    assert bucket.take(1, 0.0) == pytest.approx(1.0)
    assert bucket.take(2, 1.0) == pytest.approx(1.0)  # one is there
    assert bucket.take(1, 1.0) == 0
    assert bucket.take(60, 1000.0) == 0 and bucket.take(1, 1000.0) > 0  # never more than a minute's worth


def test_rates_are_counted_by_text_and_by_key(key_file: Path) -> None:
    entries = [add_key(key_file, name, ["moderate"], rate)[0] for name, rate in (("a", 5), ("b", None))]
    gate = Gate(key_file, lambda: 0.0)
    gate.spend(entries[0], 1)
    gate.spend(entries[0], 5, paid=1)
    with pytest.raises(ApiError) as caught:
        gate.spend(entries[0], 1)
    assert caught.value.kind.status == 429 and caught.value.headers["retry-after"] == "12"  # 60 s / 5
    with pytest.raises(ApiError, match="at once"):
        gate.spend(entries[0], 6)
    gate.spend(entries[1], 1000)


HEADERS = {
    "/v1/moderations": ["authorization"],
    "/contentsafety/text:analyze?api-version=2024-09-01": ["ocp-apim-subscription-key", "authorization"],
    "/beta/litellm_basic_guardrail_api": ["x-api-key", "authorization"],
    "/classify": ["authorization"],
    "/predict": ["authorization"],
    "/v1alpha1/comments:analyze": ["authorization"],
    "/v1/judge": ["authorization"],
}
BODIES: dict[str, Any] = {
    "/v1/moderations": {"input": "a"},
    "/contentsafety/text:analyze?api-version=2024-09-01": {"text": "a"},
    "/beta/litellm_basic_guardrail_api": {"texts": ["a"], "input_type": "request"},
    "/classify": {"input": "a"},
    "/predict": {"inputs": "a"},
    "/v1alpha1/comments:analyze": {"comment": {"text": "a"}, "requestedAttributes": {"INSULT": {}}},
    "/v1/judge": {"items": [{"prompt": "a"}]},
}


def test_every_api_asks_for_its_key_where_its_clients_put_it(key_file: Path, start: Any) -> None:
    _, token = add_key(key_file, "a", ["moderate"], None)
    _, ops = add_key(key_file, "ops", ["metrics"], None)
    guard, client = start(keys=key_file)
    for path, names in HEADERS.items():
        assert client.post(path, json=BODIES[path]).status_code == 401
        for name in names:
            value = f"Bearer {token}" if name == "authorization" else token
            assert client.post(path, json=BODIES[path], headers={name: value}).status_code == 200
        wrong = client.post(path, json=BODIES[path], headers={"authorization": f"Bearer {ops}"})
        assert wrong.status_code == 403
    keyed = f"/v1alpha1/comments:analyze?key={token}"
    assert client.post(keyed, json=BODIES["/v1alpha1/comments:analyze"]).status_code == 200
    assert len(guard.seen) == sum(map(len, HEADERS.values())) + 1
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"authorization": f"Bearer {ops}"}).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_requests_without_a_key_keep_out_nobody_who_has_one(key_file: Path, start: Any) -> None:
    _, token = add_key(key_file, "a", ["moderate"], None)
    _, client = start(keys=key_file, limits=Limits(items=1, queue_items=1))  # two may run at once
    begun = b"POST /v1/judge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with ExitStack() as stack:
        for _ in range(4):  # their bodies never end
            raw = stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port)))
            raw.sendall(begun)
        assert client.get("/health").status_code == 200
        headers = {"authorization": f"Bearer {token}"}
        assert client.post("/v1/judge", json=BODIES["/v1/judge"], headers=headers).status_code == 200


def test_a_key_that_has_used_up_its_minute_is_told_when_to_come_back(key_file: Path, start: Any) -> None:
    _, token = add_key(key_file, "a", ["moderate"], 3)
    _, client = start(keys=key_file)
    headers = {"authorization": f"Bearer {token}"}
    assert client.post("/v1/moderations", json={"input": ["a"] * 4}, headers=headers).status_code == 400
    assert client.post("/v1/moderations", json={"input": ["a", "b"]}, headers=headers).status_code == 200
    for path, body in BODIES.items():
        answer = client.post(path, json=body, headers=headers)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) in range(10, 21), answer.text
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_key_file_is_whole_at_any_time(key_file: Path) -> None:
    add_key(key_file, "a", ["moderate"], None)
    before = key_file.stat().st_ino
    add_key(key_file, "b", ["moderate"], None)
    assert key_file.stat().st_ino != before and len(json.loads(key_file.read_text())["keys"]) == 2
