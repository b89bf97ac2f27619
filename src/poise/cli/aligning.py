"""`poise align ls`, `validate`, `train`, `sample`, `export`: alignment runs from a recipe to a plain model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.align import app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.align.train import Recipe, Watch
    from poise.pipeline.progress import Progress

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, see recipes/align/.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")]
Run = Annotated[Path, typer.Argument(metavar="DIR", help="A run of `poise align train`.")]


@app.command("ls")
def list_methods() -> None:
    """The methods of `poise align train`: name, kind, paper, and what each needs."""
    from poise.align.train import METHODS

    for method in METHODS.values():
        typer.echo(f"{method.name:16s} {method.kind:8s} {method.paper:18s} {method.needs}")


@app.command()
def validate(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe without loading a model or reading a row."""
    read = read_recipe(recipe, overrides)
    typer.echo(f"{recipe}: fine; method {read.method.name} ({read.method.kind}) needs {read.method.needs}")
    several = read.parts.get("constraints")
    for line in several.words() if several else ():
        typer.echo(line)


@app.command()
def train(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new run.")],
    overrides: Overrides = None,
) -> None:
    """Align a model as a recipe says; run it again to go on after a stop.

    Under `torchrun` or `accelerate launch --multi_gpu` the processes share each step's prompts or pairs.
    """
    import shutil

    from poise.align.engine.processes import joined
    from poise.align.train import train_offline, train_online_run
    from poise.data.resumable import work_folder
    from poise.pipeline.lock import locked

    read = read_recipe(recipe, overrides)
    with joined() as world:
        if world.size > 1 and read.method.kind == "sft":
            what = f"method {read.method.name!r} runs in one process, not in {world.size}"
            raise PoiseError(what, where="align train", do="start it without accelerate or torchrun")
        if world.rank:  # the first process locks, writes and prints
            {"online": train_online_run, "offline": train_offline}[read.method.kind](read, out)
            return
        work = work_folder(out)
        work.mkdir(parents=True, exist_ok=True)
        with locked(work), _watch() as watch:
            try:
                _TRAIN[read.method.kind](read, out, watch)
            finally:
                if not (work / "settings.json").is_file():  # nothing was begun
                    shutil.rmtree(work, ignore_errors=True)
    typer.echo(f"run: {out}")


@app.command()
def sample(
    run: Run,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="One prompt a line.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, other answers.")] = 0,
) -> None:
    """Answers of a trained policy as plain text; control characters are written as \\x1b."""
    from poise.align.train.sampling import sample_answers
    from poise.pipeline import progress

    asked = [*(prompt or []), *(_lines(prompts) if prompts else [])]
    with progress(len(asked), unit="answers", what="sampling") as bar:
        answers = sample_answers(
            run, asked, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, on_rows=bar.update
        )
    for answer in answers:
        note = f" ({answer.note})" if answer.note else ""
        typer.echo(f"> {escaped(answer.prompt)}\n{escaped(answer.text or '')}{note}\n")


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new model folder.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
) -> None:
    """A run's policy as a plain Hugging Face folder: its adapter merged into the model, or all weights as they are."""
    from poise.align.train import export_merged

    export_merged(run, out, replace=force)
    typer.echo(f"model: {out}")


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        PoiseError: what is wrong with it, one line for each problem.
    """
    from poise.align.train import Head, recipe_of, sections
    from poise.pipeline.recipe import read_sections

    head, found = read_sections(path, Head, sections(), overrides or [])
    return recipe_of(head, found, str(path))


def escaped(text: str) -> str:
    """Text that can do nothing to a terminal: characters that are not printable are written out, but for newlines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PoiseError("can't be read as UTF-8 text", where=str(path), do="check the path") from error
    return [line for line in text.splitlines() if line.strip()]


@contextmanager
def _watch() -> Iterator[Watch]:
    """Progress lines for what a run does, taken off at its end."""
    from poise.align.train import Watch
    from poise.pipeline import progress

    bars: dict[str, Progress[Any]] = {}

    def bar_of(what: str, unit: str, total: int | None) -> Progress[Any]:
        if what not in bars:
            for name in [name for name in bars if bars[name].total is None]:
                bars.pop(name).close()
            bars[what] = (
                progress(iter(()), unit=unit, what=what) if total is None else progress(total, unit=unit, what=what)
            )
        return bars[what]

    def step(phase: str, done: int, total: int, loss: float) -> None:
        bar = bar_of(f"training {phase}", "steps", total)
        bar.set(loss=loss)
        bar.update(done - bar.n)

    try:
        yield Watch(rows=lambda what, rows: bar_of(what, "rows", None).update(rows), step=step, note=typer.echo)
    finally:
        for bar in bars.values():
            bar.close()


def _train_offline(recipe: Recipe, out: Path, watch: Watch) -> None:
    from poise.align.train import train_offline

    report = train_offline(recipe, out, watch)
    rows = report["rows"]
    typer.echo(f"pairs: {rows['train']:,} trained on, {rows['held_out']:,} held out; left out: {_left_out(rows)}")
    typer.echo(f"cut at the limits: {rows['prompts_cut']:,} prompts, {rows['responses_cut']:,} responses")
    for name, value in report["found"].items():
        typer.echo(f"{name.replace('_', ' ')}: {value:.4g}")
    for phase in dict.fromkeys(entry["phase"] for entry in report["evaluations"]):
        first, *_, last = [entry for entry in report["evaluations"] if entry["phase"] == phase]
        names = [name for name in ("loss", "accuracy", "margin") if name in first]
        told = [f"{name} {first[name]:.4f} -> {last[name]:.4f}" for name in names]
        typer.echo(f"held out, {phase}: {', '.join(told)}")
    typer.echo(f"speed: {report['pairs_per_second']:.3g} pairs/s, {report['peak_memory_mb']:,} MiB at most")


def _train_online(recipe: Recipe, out: Path, watch: Watch) -> None:
    from poise.align.train import train_online_run

    report = train_online_run(recipe, out, watch)
    rows, looks = report["rows"], report["evaluations"] or [report["first_step"], report["last_step"]]
    typer.echo(f"prompts: {rows['train']:,} trained on, {rows['held_out']:,} held out; left out: {_left_out(rows)}")
    first, last = looks[0], looks[-1]
    told = [
        f"{name.replace('_', ' ')} {first[name]:.3f} -> {last[name]:.3f}"
        for name in ("reward", "cost", "violation_rate", "over_refusal", "kl")
        if name in first
    ]
    typer.echo(f"{'held out' if report['evaluations'] else 'rollouts'}: {', '.join(told)}")
    for name, each in report.get("constraints", {}).items():
        costs = " -> ".join("n/a" if each[key] is None else f"{each[key]:.3f}" for key in ("first_cost", "last_cost"))
        moved = f"multiplier {each['first_multiplier']:.3f} -> {each['last_multiplier']:.3f}"
        typer.echo(f"constraint {name}: cost {costs} (at most {each['threshold']:.3f}), {moved}")
    seconds = ", ".join(f"{key.removeprefix('seconds_')} {value:.3g} s" for key, value in report["seconds"].items())
    typer.echo(f"time: {seconds}; {report['peak_memory_mb']:,} MiB at most")


def _fine_tune(recipe: Recipe, out: Path, watch: Watch) -> None:
    from poise.align import sft
    from poise.models.bundled import resolve

    paths = recipe.data.paths
    if len(paths) != 1:
        raise PoiseError(f"data.files names {len(paths)} paths", where="sft", do="give one file or folder")
    settings = recipe.part(sft.Settings)._replace(seed=recipe.head.seed)
    told = sft.Watch(
        row=lambda n: watch.rows("reading", n),
        encoded=lambda n: watch.rows("encoding", n),
        evaluated=lambda n: watch.rows("evaluating", n),
        step=lambda done, total, loss: watch.step("sft", done, total, loss),
        note=watch.note,
    )
    report = sft.fine_tune(
        paths[0], resolve(recipe.head.model), out, settings._replace(seed=recipe.head.seed), watch=told
    )
    looks = report["evaluations"]
    if looks:
        typer.echo(f"held out: loss {looks[0]['loss']:.4f} -> {looks[-1]['loss']:.4f} (nats per answer token)")


def _left_out(rows: dict[str, Any]) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in rows["left_out"].items()) or "none"


_TRAIN: dict[str, Callable[[Recipe, Path, Watch], None]] = {
    "sft": _fine_tune,
    "offline": _train_offline,
    "online": _train_online,
}
