"""Several processes train one model: each takes a share of every step's rows, and all take the same step.

    accelerate launch --multi_gpu --num_processes 2 ...        or        torchrun --nproc-per-node 2 ...

(with or without cards: accelerate's own CPU mode starts one process.) Both set RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT, which `joined` reads. Outside such a launch there is one process and every function here does what one
process would: a loop calls them without asking.

The model is whole in every process (data parallelism); nothing is sharded. A step is exact, not only alike on average:
gradients are weighted by what each process's loss is a mean over, so the split of the rows does not show.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from poise.errors import PoiseError

Item = TypeVar("Item")
Group = TypeVar("Group", bound=Sequence[Any])
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up; a rollout or an evaluation may take long."""
_AT_ONCE = 2**24
"""About so many numbers of a gradient go into one exchange, so that a whole model's need no second copy."""


class World(NamedTuple):
    """Args: rank, 0 for the one that writes; size, how many processes there are."""

    rank: int
    size: int


def world() -> World:
    """Which of how many processes this is; (0, 1) outside `joined`."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return World(0, 1)
    return World(distributed.get_rank(), distributed.get_world_size())


def is_first() -> bool:
    """True in the process that writes files and prints."""
    return world().rank == 0


@contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[World]:
    """Meet the processes of the same launch, and part at the end; nothing happens where there is one process.

    On a machine with CUDA each process takes the card of its LOCAL_RANK and they talk over nccl, otherwise over gloo.

    Raises:
        PoiseError: the launcher's variables are incomplete or not numbers, there are fewer cards than processes, or
            the others are not met in time.
    """
    if _number("WORLD_SIZE", "1") == 1:
        yield World(0, 1)
        return
    if missing := [name for name in LAUNCHER if not os.environ.get(name)]:
        raise PoiseError(
            f"WORLD_SIZE asks for several processes, but {', '.join(missing)} is not set",
            where="environment",
            do="start with accelerate launch or torchrun, or unset WORLD_SIZE",
        )
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(_card(rank))
    # Its functions take the group of the moment they are imported as their default and keep it. Imported later, as
    # Transformers does with a model, they hold the group past its end, and its threads abort the interpreter's exit.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise PoiseError(
            f"process {rank} of {size} could not meet the others: {str(error).splitlines()[0]}",
            where=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            do="check that all processes were started and that the port is free",
        ) from error
    try:
        yield world()
    finally:
        distributed.destroy_process_group()


def _card(rank: int) -> int:
    card, there = _number("LOCAL_RANK", str(rank)), torch.cuda.device_count()
    if not 0 <= card < there:
        what = f"process {rank} wants card {card}, counted from 0, and there {'is' if there == 1 else 'are'} {there}"
        raise PoiseError(what, where="environment", do="start as many processes as cards")
    return card


def _number(name: str, default: str = "") -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise PoiseError(f"{name} is {text!r}, not a whole number", where="environment") from error


def mine(items: Sequence[Item]) -> list[Item]:
    """This process's share of one step's items: every size-th from the rank on, so that sorted rows spread evenly."""
    rank, size = world()
    return list(items[rank::size])


def shared_out(groups: Sequence[Group], on_rows: Callable[[int], object]) -> Iterator[Group]:
    """This process's groups of rows, as `mine`, one after the other.

    Args:
        on_rows: told the rows of every group as it goes by, so that one process's progress is that of all.
    """
    own = {*mine(range(len(groups)))}
    for number, group in enumerate(groups):
        if number in own:
            yield group
        on_rows(len(group))


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its sum over processes: for losses that are divided by what all have together.

    A process without a row takes part. A parameter without a gradient in any process stays without.

    Args:
        parameters: the same ones in the same order in every process.
    """
    if world().size > 1:
        _exchange(parameters, 1.0)


def average_gradients(parameters: Iterable[Tensor], weight: float) -> None:
    """Replace each gradient by sum_r w_r g_r / sum_r w_r over processes r.

    With w_r the number of rows (or tokens) that process r's loss is a mean over, that is the gradient of the mean over
    all of them. A parameter without a gradient in any process stays without; one process may have no row (weight 0).

    Args:
        parameters: the same ones in the same order in every process.
        weight: w_r >= 0.

    Raises:
        ValueError: a negative weight, or none in any process.
    """
    if weight < 0:
        raise ValueError(f"the weight of a process's gradient is {weight}; it is a count of rows")
    if world().size == 1:
        return
    (whole,) = total([weight])
    if whole <= 0:
        raise ValueError("no process has a row in this step")
    _exchange(parameters, weight / whole)


def _exchange(parameters: Iterable[Tensor], factor: float) -> None:
    """Replace each gradient by the sum over processes of factor x gradient."""
    wanted = [p for p in parameters if p.requires_grad]
    present = total([float(p.grad is not None) for p in wanted])
    pieces: dict[int, list[Tensor]] = {}
    before = 0
    for parameter in (p for p, count in zip(wanted, present, strict=True) if count):
        pieces.setdefault(before // _AT_ONCE, []).append(parameter)
        before += parameter.numel()
    for piece in pieces.values():
        parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().float().flatten() for p in piece]
        flat = torch.cat(parts) * factor
        distributed.all_reduce(flat)
        for parameter, part in zip(piece, torch.split(flat, [p.numel() for p in piece]), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)


def total(values: Sequence[float]) -> list[float]:
    """Sum of each value over processes, for counts and summed losses that are reported; all get the same list."""
    if world().size == 1:
        return list(values)
    sums = torch.tensor(list(values), dtype=torch.float64, device=_device())
    distributed.all_reduce(sums)
    return [float(value) for value in sums]


def agreed(fine: bool) -> bool:
    """True when it is true in every process: asked before an exchange, so that a fault in one stops all of them."""
    return total([float(not fine)])[0] == 0


def share(tensors: Iterable[Tensor]) -> None:
    """Copy the first process's values into every other's, in place, so that all start from the same weights."""
    if world().size == 1:
        return
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), 0)


def by_first(write: Callable[[], object]) -> None:
    """Let the first process write, and the others wait for it.

    Raises:
        PoiseError: in the others, when the first could not; there its own error is raised.
    """
    failure: BaseException | None = None
    if is_first():
        try:
            write()
        except Exception as error:
            failure = error
    fine = agreed(failure is None)
    if failure is not None:
        raise failure
    if not fine:
        raise PoiseError("the first process could not write; see its message", where=f"process {world().rank}")


def _device() -> str:
    return "cpu" if distributed.get_backend() == "gloo" else "cuda"
