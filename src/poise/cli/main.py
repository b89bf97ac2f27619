"""Entry point of the `poise` command.

Starting it imports no model library, so `poise validate` and `poise --help` answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

# Idle OpenMP threads sleep instead of spinning: next to one busy process, spinning made encoding four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

import poise

# modules that are not named for a group add themselves to `align`, `annotate`, `data` and `guard`
from poise.cli import (  # noqa: F401
    agreement,
    align,
    aligning,
    annotate,
    collect,
    data,
    data_steps,
    guard,
    guard_serving,
    guarding,
    hidden_checks,
    inspecting,
    joint,
    llm,
    models,
    moderation,
    preferring,
    quality_control,
    run,
    serving,
    storing,
    workbench,
)
from poise.errors import PoiseError

app = typer.Typer(
    name="poise",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Add --debug to any command to see the full traceback of an error.",
)
app.command("run")(run.run)
app.command("validate")(run.validate)
app.add_typer(data.app, name="data")
app.add_typer(collect.app, name="collect")
app.add_typer(annotate.app, name="annotate")
app.add_typer(llm.app, name="llm")
app.add_typer(models.app, name="models")
app.add_typer(guard.app, name="guard")
app.add_typer(align.app, name="align")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"poise {poise.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """From a written safety policy to preference data, a guard, an aligned model and the evidence."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 1 a bug (type and message in one line), 2 wrong input, 3 environment, 4 a run failed, 130 and 143 signals.

    Args:
        words: the arguments; None means those of the process.
    """
    arguments = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in arguments
    try:
        app([word for word in arguments if word != "--debug"])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except PoiseError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        notes = "; ".join(getattr(error, "__notes__", ["run again with --debug to see where"]))
        print(f"error: {type(error).__name__}: {error} ({notes})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
