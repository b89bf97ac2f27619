"""Open a guard by what its folder holds."""

from __future__ import annotations

from pathlib import Path

from poise.guard.calibrated import CalibratedGuard
from poise.guard.fast.guard import FastGuard, read_settings
from poise.guard.shipped import guard_folder


def open_guard(folder: Path, *, threads: int | None = None) -> CalibratedGuard:
    """The guard in a folder that `poise guard train`, `export` or `calibrate` wrote; torch only where it needs it.

    `starter` is the one that ships.

    Args:
        threads: of one computation; None means one for an ONNX engine, and torch's own choice for torch.

    Raises:
        PoiseError: the folder holds no guard.
    """
    folder = guard_folder(folder)
    if str(read_settings(folder).get("engine", "torch")).startswith("onnx"):
        return FastGuard(folder, threads=threads or 1)
    import torch

    from poise.guard.fit.apply import TrainedGuard

    if threads is not None:
        torch.set_num_threads(threads)
    return TrainedGuard(folder)
