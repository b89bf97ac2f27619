"""A service on an address: who may bind where, warm before the first request, uvicorn underneath."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from poise.errors import PoiseError
from poise.guard.verdict import Guard


def need_extra() -> None:
    """Raise when what the server stands on is not installed.

    Raises:
        PoiseError: what is missing.
    """
    from importlib.util import find_spec

    if missing := [name for name in ("starlette", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise PoiseError(
            f"{missing[0]} is not installed", where="poise guard serve", do="pip install -e '.[serve]'", exit_code=3
        )


def check_access(host: str, keys: Path | None, *, no_auth: bool) -> None:
    """Raise when a server would be open to others without its operator having said so.

    Raises:
        PoiseError: no keys, and an address that others can reach; or both keys and `--no-auth`.
    """
    if keys is not None and no_auth:
        raise PoiseError("--keys and --no-auth contradict each other", where="poise guard serve", do="give one of them")
    if keys is None and not no_auth and not _loopback(host):
        raise PoiseError(
            f"{host} can be reached by others and no key is asked for",
            where="--host",
            do="give --keys FILE (poise guard keys add), or --no-auth if something before it keeps others out",
        )


def check_guard(guard: Guard) -> None:
    """Raise when the guard can't judge the canary.

    Raises:
        PoiseError: why not.
    """
    from poise.serve.app import CANARY

    try:
        (verdict,) = guard.judge([CANARY])
    except Exception as error:
        raise PoiseError(
            f"fails on a harmless pair ({type(error).__name__}: {error})", where=guard.name, do="train it again"
        ) from error
    if verdict.unsafe is None:
        raise PoiseError(f"can't judge a harmless pair ({verdict.reason})", where=guard.name, do="train it again")


def listen(host: str, port: int) -> socket.socket:
    """A socket on that address.

    Raises:
        PoiseError: it can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by its number: asyncio turns Nagle's wait (40 ms an answer) off only where a socket says so
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
        return sock
    except (OSError, OverflowError) as error:
        sock.close()
        raise PoiseError(
            f"can't listen ({error})", where=f"{host}:{port}", do="choose another --host or --port", exit_code=3
        ) from None


def serve(app: object, sock: socket.socket, on_ready: Callable[[str], object]) -> None:
    """Answer on the socket until SIGINT or SIGTERM; requests under way are answered first.

    Args:
        app: the ASGI application.
        sock: listens.
        on_ready: is told the address.
    """
    import uvicorn

    host, port = sock.getsockname()[:2]
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
    )
    on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    uvicorn.Server(config).run(sockets=[sock])


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
