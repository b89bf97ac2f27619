"""Peak memory of a run or a stage, without a watching thread.

Where Linux says it, it is that of this program: `getrusage` also keeps the peak of the process that started it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROC = Path("/proc/self")


def reset_peak() -> None:
    """Start a new peak. Where the system cannot (not Linux, or forbidden), the peak stays that of the process."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float:
    """Highest resident memory since `reset_peak`, in MiB; 0 where the system does not say (Windows)."""
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        return _peak_of_process()
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return round(int(kib) / 1024, 1)


def _peak_of_process() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
