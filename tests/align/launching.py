"""Two processes started as torchrun starts them, and the command in float32."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

COMMAND = """
import sys, torch, poise.models.trunk as trunk
trunk.frozen_dtype = lambda device: torch.float32
torch.set_num_threads(1)
from poise.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command in float32, as the fixture `float32` has it."""


def launched(code: str, words: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each of two processes that run some code with words after it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(path for path in sys.path if path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**os.environ, **about, "RANK": str(rank), "PYTHONPATH": paths},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [child.communicate(timeout=120) for child in children]
    return [(child.returncode, *texts) for child, texts in zip(children, told, strict=True)]
