"""What a long training leaves to others on the machine."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from poise.models.memory import give_back


def _resident_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) // 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed between blocks in use")
def test_memory_freed_between_blocks_in_use_goes_back_every_fifty_steps() -> None:
    blocks = [np.ones(64 << 10, np.uint8) for _ in range(3200)]  # 200 MB in blocks that malloc does not map apart
    kept = blocks[::10]
    del blocks
    give_back(49)
    before = _resident_mb()
    give_back(50)
    assert before - _resident_mb() > 100
    assert all(block.all() for block in kept)
