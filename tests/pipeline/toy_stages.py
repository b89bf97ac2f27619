"""Three stages in plain Python: numbers -> total -> report. Files beside the recipe make `numbers` misbehave."""

from __future__ import annotations

import copy
import errno
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from poise.errors import PoiseError
from poise.pipeline import Stage, StageContext


class Sampling(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=1.0, ge=0)


class Fast(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["fast"] = "fast"


class Slow(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["slow"] = "slow"
    steps: int = 1


class Numbers(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    count: int = Field(default=3, ge=1)
    scale: float = 1.0
    shout: bool = False
    tags: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    method: Fast | Slow = Field(default=Fast(), discriminator="kind")
    limit: int | Literal["all"] = "all"


class Total(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["sum", "count"] = "sum"


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def numbers(context: StageContext, settings: Numbers) -> dict[str, Any]:
    values = []
    for i in context.progress(settings.count, unit="numbers", what="counting"):
        if (context.recipe_dir / f"pause-at-{i}").exists():
            context.path("numbers.json").write_text("[0, ")  # an output half written
            (context.dir / "left.poise-tmp").write_text("x")
            context.event("paused")
            time.sleep(60)
        if (flag := context.recipe_dir / f"raise-at-{i}").exists():
            raise copy.copy(ERRORS[flag.read_text()])
        values.append(context.part(f"number-{i}", lambda i=i: _number(context, i, settings.scale)))
    context.scratch("checkpoint.bin").write_bytes(b"state")
    context.write_json("numbers.json", values)
    return {"n": len(values), "mean": float("nan")}


def _number(context: StageContext, i: int, scale: float) -> float:
    context.event("computed", i=i)
    return (context.seed + i) * scale


def total(context: StageContext, settings: Total) -> dict[str, Any]:
    values = (context.input("numbers") / "numbers.json").read_text(encoding="utf-8")
    count = values.count(",") + 1
    context.write_text("deep/total.txt", f"{settings.kind}: {values if settings.kind == 'sum' else count}")
    return {}


def report(context: StageContext, settings: Report) -> dict[str, Any]:
    context.write_text("report.html", (context.input("total") / "deep" / "total.txt").read_text(encoding="utf-8"))
    context.log("written")
    return {"guard": context.has_input("numbers")}


ERRORS: dict[str, BaseException] = {
    "full": OSError(errno.ENOSPC, "No space left on device", "/somewhere/big.bin"),
    "full-in-words": RuntimeError("safetensors: No space left on device (os error 28)"),
    "denied": PermissionError(errno.EACCES, "Permission denied", "/somewhere/closed"),
    "memory": MemoryError(),
    "torch-memory": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "user": PoiseError("no such data set 'x'", where="numbers.data", do="name another", exit_code=2),
    "bug": KeyError("oops"),
    "interrupt": KeyboardInterrupt(),
}

STAGES = {
    "numbers": Stage("numbers", Numbers, (), numbers),
    "total": Stage("total", Total, ("numbers",), total),
    "report": Stage("report", Report, ("numbers", "total"), report),
}
