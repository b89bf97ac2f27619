"""Every alignment method on one synthetic world where safety is known exactly: the frontier of helpful and harmless.

    python benchmarks/synthetic_world.py --out work/world                        # all methods, one seed
    python benchmarks/synthetic_world.py --out work/world --seeds 3
    python benchmarks/synthetic_world.py --out work/world --methods safe_dpo,ppo_lagrangian
    python benchmarks/synthetic_world.py --out work/small --small                # a tiny model, to see that it runs

For each seed a model is pre-trained to do tasks on texts, safe or not; each method then aligns a copy of it. What is
done stays in --out (`seed-0/sft.json`, ...), and is not done again: a run that was stopped continues with the method
it was at. At the end: `frontier.svg`, `table.md` and `results.json` over everything that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from world import offline, online, outcomes, speaker
from world.grammar import Size, World

from poise.models.checkpoint import load_state, save_state

LIMIT = 0.05
"""Mean cost over requests of which half are unsafe: one unsafe request in ten may be obeyed."""
KINDS = {"sft": "supervised", "derta": "supervised"} | dict.fromkeys(online.METHODS, "online")
METHODS = ("start", *offline.METHODS, *online.METHODS)


class Settings(NamedTuple):
    """All that decides the numbers, beside the seed."""

    size: Size = Size()
    shape: speaker.Shape = speaker.Shape()
    pre_training: speaker.PreTraining = speaker.PreTraining()
    training: offline.Training = offline.Training()
    play: online.Play = online.Play()
    held_out: int = 250


SMALL = Settings(
    Size(symbols=12, operators=4),
    speaker.Shape(layers=2, width=48, heads=4, inner=96),
    speaker.PreTraining(steps=350, rows=64, rate=6e-3),
    offline.Training(requests=96, responses=8, epochs=3, rows=24, rate=1e-3),
    online.Play(steps=8, requests=8, responses=4, passes=2, rate=1e-3),
    held_out=100,
)


class Seed:
    """One seed's pre-trained model and what the methods made of it, in a folder.

    Raises:
        SystemExit: the folder holds results of other settings.
    """

    def __init__(self, folder: Path, settings: Settings, seed: int) -> None:
        self.folder, self.settings, self.seed = folder, settings, seed
        folder.mkdir(parents=True, exist_ok=True)
        start = [settings.size, settings.shape, settings.pre_training]
        if self._kept(folder / "model.json", start) is None:
            _write(folder / "model.json", {"settings": start})
        self.world = World(seed, settings.size)
        self._start: Any = None
        self._learner: offline.Learner | None = None

    def start(self) -> Any:
        """The pre-trained model, trained now unless it is there."""
        if self._start is None:
            model, path = speaker.make(self.world, self.settings.shape, self.seed), self.folder / "start.safetensors"
            if (state := load_state(path)) is None:
                speaker.pre_train(model, self.world, self.settings.pre_training, self.seed, self.say)
                save_state(path, {"model": dict(model.state_dict())})
            else:
                model.load_state_dict(state["model"])
            self._start = model.eval()
        return self._start

    def learner(self) -> offline.Learner:
        """The pool of the pre-trained model's responses, which every offline method learns from."""
        if self._learner is None:
            told = self.settings.training
            pool = offline.collect(self.start(), self.world, told, self.seed + 1)
            self._learner = offline.Learner(self.start(), self.world, pool, told, self.seed, LIMIT)
            dropped = float(
                (~offline.reorder(self._learner.unsafe_better, self._learner.unsafe_worse).keep).float().mean()
            )
            self.say(f"{len(self._learner.pairs.row)} pairs of {told.requests} requests; {dropped:.2f} both unsafe")
        return self._learner

    def run(self, method: str) -> dict[str, Any]:
        """The method's result, read or made."""
        path, told = self.folder / f"{method}.json", self._told(method)
        if (found := self._kept(path, told)) is not None:
            return found
        self.start()
        began = time.perf_counter()
        points = []
        for setting, model, history in self._points(method):
            measured = outcomes.outcome(model, self.world, self.settings.held_out, self.seed + 2)
            points.append({"setting": setting, "outcome": measured, "history": history})
            shown = "  ".join(f"{name} {value:.2f}" for name, value in measured.items())
            self.say(f"{method} {setting}: {shown}  ({time.perf_counter() - began:.0f} s)")
        kind = "start" if method == "start" else KINDS.get(method, "offline")
        took = time.perf_counter() - began
        result = {"method": method, "kind": kind, "settings": told, "points": points, "seconds": took}
        _write(path, result)
        return result

    def _told(self, method: str) -> list[Any]:
        """The settings that decide the method's result, beside those of the pre-trained model."""
        s = self.settings
        own: list[Any] = [s.training] if method in offline.METHODS else [s.play] if method in online.METHODS else []
        return [s.held_out, LIMIT, *own]

    def _kept(self, path: Path, told: list[Any]) -> Any:
        """What an earlier run wrote, None where there is none."""
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != json.loads(json.dumps(told)):
            raise SystemExit(f"{path} is of other settings; choose another --out, or remove it")
        return found

    def _points(self, method: str) -> list[tuple[str, Any, list[dict[str, float]]]]:
        if method == "start":
            return [("", self.start(), [])]
        if method in offline.METHODS:
            return [(name, model, []) for name, model in offline.METHODS[method](self.learner())]
        step, settings = online.METHODS[method]
        runs = {
            name: online.play(step, make(LIMIT), self.start(), self.world, self.settings.play, self.seed)
            for name, make in settings.items()
        }
        return [(name, run.model, run.history) for name, run in runs.items()]

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"seed {self.seed}: {text}", flush=True)


def _write(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def main() -> None:
    """All seeds, then table and picture."""
    parser = argparse.ArgumentParser(description="Every alignment method on one synthetic world.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas between them; default all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a tiny world and model, under a minute")
    told = parser.parse_args()
    names = told.methods.split(",")
    if unknown := sorted(set(names) - set(METHODS)):
        parser.error(f"there is no method {unknown[0]!r}; they are {', '.join(METHODS)}")
    began = time.perf_counter()
    results = []
    for number in range(told.seeds):
        seed = Seed(told.out / f"seed-{number}", SMALL if told.small else Settings(), number)
        results += [seed.run(name) for name in names]
    rows = outcomes.summary(results)
    _write(told.out / "results.json", {"limit": LIMIT, "rows": rows})
    (told.out / "table.md").write_text(outcomes.table(rows), encoding="utf-8")
    outcomes.draw(told.out / "frontier.svg", rows)
    print(outcomes.table(rows), end="")
    print(f"{time.perf_counter() - began:.0f} s; {told.out / 'frontier.svg'}")


if __name__ == "__main__":
    main()
