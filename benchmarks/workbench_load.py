"""The workbench under load: simulated annotators against real server processes, optionally killed while they work.

    python benchmarks/workbench_load.py --annotators 50 --seconds 300
    python benchmarks/workbench_load.py --seconds 100 --kills 10
    python benchmarks/workbench_load.py --postgres --servers 2

Each annotator takes the next task, thinks, and submits; a request that fails is sent again with the same answer token,
as the page does. `--postgres` starts a server of its own (see `postgres.py`). Printed: p50, p95 and p99 of the next
task and of submit; then every acknowledged answer is looked up in the log (lost, double) and the chain is verified. The
clients share the machine with the server. What it leaves out: a browser.
"""

from __future__ import annotations

import argparse
import html
import http.client
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from contextlib import ExitStack
from pathlib import Path
from random import Random

import numpy as np
import sqlalchemy as sa
from postgres import server

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench.accounts import Accounts, hashed
from poise.data.records import QARecord
from poise.data.tables import TableWriter, open_tables

OPTIONS = (
    "--budget-items",
    "0",
    "--budget-severe",
    "0",
    "--break-items",
    "0",
    "--break-severe",
    "0",
    "--shield",
    "off",
)


class Server:
    """A `poise annotate serve` that can be killed and started again on the same port."""

    def __init__(self, store: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._command = [sys.executable, "-m", "poise", "annotate", "serve", store, "--port", str(self.port), *OPTIONS]
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the server does not start")

    def kill(self) -> None:
        """kill -9, and start again."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()


class Annotator(threading.Thread):
    """One person's browser."""

    def __init__(self, number: int, port: int, session: str, think: float, until: float) -> None:
        super().__init__(daemon=True)
        self.chance, self.port, self.think, self.until = Random(number), port, think, until
        self.headers = {"cookie": f"poise_session={session}", "origin": f"http://127.0.0.1:{port}"}
        self.next_ms: list[float] = []
        self.submit_ms: list[float] = []
        self.stored: list[str] = []
        self.failed = 0
        self._line: http.client.HTTPConnection | None = None

    def _send(self, method: str, path: str, fields: dict[str, str] | None = None) -> tuple[int, str, str]:
        """(status, text, location); sent again until the server answers."""
        body = None if fields is None else urllib.parse.urlencode(fields)
        kind = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"} if body else {}
        while True:
            try:
                if self._line is None:
                    self._line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
                    self._line.connect()
                    self._line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._line.request(method, path, body, self.headers | kind)
                answer = self._line.getresponse()
                return answer.status, answer.read().decode(), answer.headers.get("location", "")
            except (OSError, http.client.HTTPException):
                self.failed += 1
                self._line = None
                time.sleep(0.1)

    def run(self) -> None:
        """Label until the time is over."""
        time.sleep(self.chance.random() * self.think)
        while time.time() < self.until:
            begun = time.perf_counter()
            status, _, location = self._send("GET", "/next/qa")
            if status != 303 or not location.startswith("/task/"):
                return
            status, page, _ = self._send("GET", location)
            self.next_ms.append(1000 * (time.perf_counter() - begun))
            if status != 200:
                continue
            fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
            found = re.search(r'data-csrf="(\w+)"', page)
            time.sleep(self.chance.expovariate(1 / self.think))
            severity = self.chance.choice("0000123")
            answer = {"csrf": html.unescape(found[1]) if found else "", "severity": severity} | fields
            if severity != "0":
                answer["category"] = self.chance.choice(("S2", "S6", "S8"))
            begun = time.perf_counter()
            status, text, _ = self._send("POST", f"{location}/submit", answer)
            self.submit_ms.append(1000 * (time.perf_counter() - begun))
            if status == 200:
                self.stored.append(f"page:{fields['answer']}")
            elif status != 409:
                raise RuntimeError(f"{status} {text[:200]}")


def fill(where: str, folder: Path, items: int, people: int) -> list[str]:
    """A store of invented answers, and a session for each person."""
    with TableWriter(folder / "rows", {"name": "load"}) as writer:
        for n in range(items):
            writer.add(QARecord(prompt=f"Question number {n} about the garden?", response=f"Answer {n}. " * 20))
    with AnnotationStore.create(where, OverlapPolicy()) as store:
        import_tables(store, open_tables(folder / "rows"))
        accounts, sessions = Accounts(store), []
        for n in range(people):
            account = accounts.join(accounts.invite("annotator"), f"person{n}", f"a long password {n}")
            sessions.append(accounts.open_session(account, 12))
            accounts.warned(hashed(sessions[-1]))
    return sessions


def check(where: str, people: list[Annotator]) -> None:
    """Every acknowledged answer is in the log once, nobody answered twice, and the chain is whole."""
    said = [token for person in people for token in person.stored]
    with AnnotationStore.open(where) as store:
        with store.database.read() as db:
            kept = db.execute(sa.text("select token from event")).scalars().all()
            twice = db.execute(
                sa.text(
                    "select count(*) from (select item, rater from event group by item, rater having count(*) > 1) as d"
                )
            ).scalar()
        fault = store.verify().fault
    lost = len(set(said) - set(kept))
    print(
        f"acknowledged {len(said):,}, in the log {len(kept):,}, lost {lost}, double {twice}, chain {fault or 'whole'}"
    )
    if lost or twice or fault:
        raise SystemExit(4)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--think", type=float, default=3.0, help="mean seconds between task and answer")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="instead of SQLite")
    told = parser.parse_args()
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        where = stack.enter_context(server()) if told.postgres else str(Path(name) / "store.db")
        sessions = fill(where, Path(name), told.items, told.annotators)
        servers = [Server(where) for _ in range(told.servers)]
        until = time.time() + told.seconds
        people = [
            Annotator(n, servers[n % len(servers)].port, session, told.think, until)
            for n, session in enumerate(sessions)
        ]
        for person in people:
            person.start()
        for n in range(told.kills):
            time.sleep(told.seconds / (told.kills + 1))
            servers[n % len(servers)].kill()
        for person in people:
            person.join(told.seconds + 60)
        for each in servers:
            each.process.terminate()
            each.process.wait()
        for label, values in (
            ("next task", [v for p in people for v in p.next_ms]),
            ("submit", [v for p in people for v in p.submit_ms]),
        ):
            p50, p95, p99 = np.percentile(values, [50, 95, 99])
            print(f"{label:10s} n {len(values):6,}  p50 {p50:6.1f} ms  p95 {p95:6.1f} ms  p99 {p99:6.1f} ms")
        print(f"requests sent again {sum(p.failed for p in people):,}; kills {told.kills}")
        check(where, people)


if __name__ == "__main__":
    main()
