"""Local generation beside plain `transformers.generate`: the same prompts, number format, threads and batch size.

    python benchmarks/generation.py                  # the bundled model, batch 16, K = 1 and K = 8
    python benchmarks/generation.py --threads 1      # on a machine whose other cores are busy

Two loads, each of `--rows` responses to prompts from our own seeds: one sample of each prompt, and eight samples of
each of an eighth of the prompts. The peer is `model.generate` with left padding to the longest prompt of its batch,
batches sorted by length like ours, the same temperature and nucleus. For eight samples it runs both ways: each prompt
written down eight times, and `num_return_sequences`. Runs alternate, and the medians count. Tokens are those that
belong to a response, its end token included; what a padded row still computes after its end is work, but no token.

The work is counted too: positions that go through the layers before the first token (`prefill`), and rows times steps
after it (`decode`), so that the ratio can be explained. Memory is the highest while it ran, above what was held before.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poise.data import load_seeds
from poise.data.rows import Sampling
from poise.errors import PoiseError
from poise.models import generate as ours
from poise.models.bundled import resolve
from poise.models.trunk import Trunk

SYSTEM = "You are a helpful assistant."
Rows = list[tuple[int, list[int]]]  # (number of the prompt, its token ids), one entry a response


class Run(NamedTuple):
    """One run.

    Args:
        responses: without end token.
        tokens: of all responses, end tokens included.
        seconds: of the run.
        first: those of them up to the first token of each batch.
        prefill, decode: positions computed up to and after the first token.
        megabytes: extra memory.
    """

    responses: list[list[int]]
    tokens: int
    seconds: float
    first: float
    prefill: int
    decode: int
    megabytes: float


class Meter:
    """Counts positions that go through the decoder, times the first tokens, and watches the memory of the process."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.prefill, self.decode, self.first = decoder, 0, 0, 0.0
        self.entered: float | None = None
        with suppress(AttributeError):  # glibc only: give back what earlier runs have freed
            ctypes.CDLL(None).malloc_trim(0)
        self.highest = self.start = resident()
        self.done = threading.Event()

    def __enter__(self) -> Meter:
        self.hook = self.decoder.register_forward_pre_hook(self._count, with_kwargs=True)
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self.done.set()
        self.watcher.join()
        self.hook.remove()

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        now = time.perf_counter()
        if ids.shape[1] > 1:
            self.prefill += ids.numel()
            self.entered = now
        else:
            self.decode += ids.numel()
            self.first += now - self.entered if self.entered is not None else 0.0
            self.entered = None

    def run(self, responses: list[list[int]], tokens: int) -> Run:
        """What was measured, with these responses."""
        megabytes = self.highest - self.start
        return Run(responses, tokens, self.seconds, self.first, self.prefill, self.decode, megabytes)

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.highest = max(self.highest, resident())


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_ours(trunk: Trunk, rows: Rows, args: argparse.Namespace, temperature: float) -> Run:
    """Our `generate`."""
    how = Sampling(temperature=temperature, top_p=args.top_p, max_new_tokens=args.max_new_tokens)
    requests = [ours.Request(ids, how.model_copy(update={"seed": i})) for i, (_, ids) in enumerate(rows)]
    with Meter(trunk.decoder) as meter:
        sampled = ours.generate(trunk, requests, batch_size=args.batch_size)
    tokens = sum(len(s.ids) + s.finished for s in sampled)
    return meter.run([s.ids for s in sampled], tokens)


def run_peer(trunk: Trunk, rows: Rows, args: argparse.Namespace, temperature: float, samples: int = 1) -> Run:
    """`model.generate`; with `samples`, that many equal rows in a row are asked for by `num_return_sequences`."""
    tokenizer, model = trunk.tokenizer, trunk.model
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][1]), rows[i][0], i))
    chance = {"temperature": temperature, "top_p": args.top_p, "top_k": 0} if temperature > 0 else {}
    out: list[list[int]] = [[] for _ in rows]
    tokens = 0
    torch.manual_seed(0)
    with Meter(trunk.decoder) as meter, torch.inference_mode():
        for at in range(0, len(order), args.batch_size):
            chosen = order[at : at + args.batch_size]
            asked = [rows[i][1] for i in chosen[::samples]]
            batch = tokenizer.pad({"input_ids": asked}, padding_side="left", return_tensors="pt")
            answer = model.generate(
                **batch,
                do_sample=temperature > 0,
                max_new_tokens=args.max_new_tokens,
                num_return_sequences=samples,
                pad_token_id=tokenizer.pad_token_id,
                **chance,
            )
            for i, ids in zip(chosen, answer[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                ended = tokenizer.eos_token_id in ids
                out[i] = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
                tokens += len(out[i]) + ended
    return meter.run(out, tokens)


def load(trunk: Trunk, count: int, samples: int) -> Rows:
    """`count` rows: `samples` of each of `count / samples` seed prompts, drawn with a fixed seed."""
    prompts = [row.prompt for row in load_seeds().prompts]
    chosen = random.Random(7).sample(prompts, count // samples)
    talks = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in chosen]
    return [(i, ids) for i, talk in enumerate(talks) for ids in [ours.chat_ids(trunk, talk)] * samples]


def compare(runners: dict[str, Callable[[], Run]], repeat: int) -> dict[str, list[Run]]:
    """Every runner once to warm up, then `repeat` times in turn."""
    for runner in runners.values():
        runner()
    done: dict[str, list[Run]] = {name: [] for name in runners}
    for turn in range(repeat):
        names = list(runners) if turn % 2 == 0 else list(runners)[::-1]
        for name in names:
            done[name].append(runners[name]())
    return done


def table(done: dict[str, list[Run]], peer: str) -> None:
    """Tokens a second, work and memory of each, the ratio of medians to `peer`, and where the difference lies."""
    speed = {name: statistics.median(r.tokens / r.seconds for r in runs) for name, runs in done.items()}
    middle = {
        name: Run([], *(statistics.median(r[at] for r in runs) for at in range(1, 7))) for name, runs in done.items()
    }
    print(f"{'':37s} tokens/s  ratio  tokens  prefill  first s  decode  ms/row-step  extra MB")
    for name, run in middle.items():
        each = 1000 * (run.seconds - run.first) / run.decode
        print(
            f"{name:37s} {speed[name]:8.1f} {speed[name] / speed[peer]:6.2f} {run.tokens:7.0f} {run.prefill:8.0f} "
            f"{run.first:8.2f} {run.decode:7.0f} {each:12.2f} {run.megabytes:9.0f}"
        )
    mine, theirs = middle["poise"], middle[peer]
    later = [run.seconds - run.first for run in (mine, theirs)]
    print(f"of {theirs.seconds - mine.seconds:.2f} s saved,")
    print(
        f"  {theirs.first - mine.first:.2f} s up to the first tokens: {theirs.prefill:.0f} against {mine.prefill:.0f} "
        "prompt positions, and the vocabulary head, which the peer\n    multiplies with a strided slice "
        "(torch copies the matrix once a row: the extra memory)"
    )
    print(
        f"  {later[1] - later[0]:.2f} s in decoding: {theirs.decode:.0f} against {mine.decode:.0f} rows x steps as "
        "finished rows leave, a cache that is not copied,\n    one uniform number a row where the "
        "peer draws one for each token of the vocabulary"
    )


def same_greedy(trunk: Trunk, rows: Rows, args: argparse.Namespace) -> str:
    """How many greedy answers of both are the same, in this number format and in float32."""
    found = []
    here = trunk.model.dtype
    for dtype in dict.fromkeys((here, torch.float32)):
        trunk.model.to(dtype)
        a, b = run_ours(trunk, rows, args, 0.0).responses, run_peer(trunk, rows, args, 0.0).responses
        found.append(
            f"{sum(x == y for x, y in zip(a, b, strict=True))} of {len(rows)} in {dtype}".replace("torch.", "")
        )
    trunk.model.to(here)
    return ", ".join(found)


@contextmanager
def quiet() -> Any:
    """Transformers' advice on generation settings stays off the table."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def main() -> None:
    """Run both loads and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="bundled name, folder or hub id")
    parser.add_argument("--rows", type=int, default=32, help="responses of each load, a multiple of 8")
    parser.add_argument("--batch-size", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if args.rows % 8 or args.batch_size % 8 or min(args.rows, args.batch_size) < 8:
        raise PoiseError("rows and batch size must be multiples of 8", where="benchmarks/generation.py")
    torch.set_num_threads(args.threads)
    trunk = Trunk(resolve(args.model))
    print(
        f"{args.model}, {trunk.model.dtype}, {args.threads} threads of {os.cpu_count()} cores, "
        f"batch {args.batch_size}, {args.rows} rows, {args.max_new_tokens} new tokens, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    heat = args.temperature
    for samples in (1, 8):
        rows = load(trunk, args.rows, samples)
        runners = {
            "poise": lambda rows=rows: run_ours(trunk, rows, args, heat),
            "transformers": lambda rows=rows: run_peer(trunk, rows, args, heat),
        }
        if samples > 1:
            runners["transformers, num_return_sequences"] = lambda rows=rows: run_peer(trunk, rows, args, heat, 8)
        print(f"\n{args.rows // samples} prompts, {samples} samples of each")
        with quiet():
            table(compare(runners, args.repeat), "transformers")
    with quiet():
        print("\nequal greedy answers:", same_greedy(trunk, load(trunk, args.rows, 1), args))


if __name__ == "__main__":
    try:
        main()
    except PoiseError as error:
        sys.exit(str(error))
