"""The house rules that a machine can check: who imports whom, how long things are, and that they are described."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import poise

PACKAGE = Path(poise.__file__).parent
ORDER = (
    "harm",
    "metrics",
    "data",
    "llm",
    "collect",
    "annotate",
    "models",
    "guard",
    "preference",
    "align",
    "evaluate",
    "serve",
    "pipeline",
    "cli",
)
FREE = {"poise", "errors"}
"""What every room may import: the error type, and the package itself for its version."""
OUTSIDE = {"harm": set[str](), "metrics": {"numpy"}, "errors": set[str]()}
"""Rooms that are held to the standard library and the packages named."""
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 70

FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(file: str) -> str:
    """The room of a file of the package, given by its path in it; "poise" for the package's own `__init__`."""
    first = Path(file).parts[0].removesuffix(".py")
    return "poise" if first == "__init__" else first


def imports(file: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, `from a import b` as "a.b", wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ("poise", *Path(file).parts[:-1])
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def import_faults(file: str, source: str) -> list[str]:
    """Imports that point to a later or an unknown room, at another room's private names, or outside where barred."""
    own = room_of(file)
    faults = []
    for line, name in imports(file, source):
        at = f"{file}:{line} imports {name}"
        top, *rest = name.split(".")
        if top != "poise":
            if own in OUTSIDE and top not in sys.stdlib_module_names | OUTSIDE[own]:
                faults.append(f"{at}: {own} stands on the standard library")
            continue
        other = rest[0] if rest and (rest[0] in ORDER or (PACKAGE / rest[0]).is_dir()) else "poise"
        other = "errors" if rest[:1] == ["errors"] else other
        private = [part for part in rest if part.startswith("_") and not part.endswith("__")]
        if private and other != own:
            faults.append(f"{at}: {private[0]} is private")
        if other in FREE or own in (other, "__main__"):
            continue
        if own not in ORDER or other not in ORDER:
            faults.append(f"{at}: {own if own not in ORDER else other} has no place in the order of rooms")
        elif ORDER.index(other) > ORDER.index(own):
            faults.append(f"{at}: {other} comes after {own}")
    return faults


def size_faults(file: str, source: str) -> list[str]:
    """Files and functions (with decorators and docstring) that are too long."""
    lines = len(source.splitlines())
    faults = [f"{file} has {lines} lines"] if lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            length = (node.end_lineno or start) - start + 1
            if length > MAX_FUNCTION_LINES:
                faults.append(f"{file}:{start} {node.name} has {length} lines")
    return faults


def docstring_faults(file: str, source: str) -> list[str]:
    """The module, and the public classes, functions and methods, that have no docstring."""

    def undescribed(parent: ast.Module | ast.ClassDef, path: str) -> Iterator[str]:
        for node in parent.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if "overload" in {ast.unparse(d).split(".")[-1] for d in node.decorator_list}:
                continue  # the implementation says it for all of them
            if not ast.get_docstring(node):
                yield f"{file}:{node.lineno} {path}{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from undescribed(node, f"{path}{node.name}.")

    tree = ast.parse(source)
    return [*([] if ast.get_docstring(tree) else [f"{file} has no docstring"]), *undescribed(tree, "")]


def test_every_room_has_its_place() -> None:
    rooms = {room_of(file) for file in FILES}
    assert rooms - FREE - {"__main__"} == set(ORDER)


def test_imports_point_upwards_only() -> None:
    assert [fault for file, source in FILES.items() for fault in import_faults(file, source)] == []


def test_files_and_functions_are_short() -> None:
    assert [fault for file, source in FILES.items() for fault in size_faults(file, source)] == []


def test_all_that_is_public_is_described() -> None:
    assert [fault for file, source in FILES.items() for fault in docstring_faults(file, source)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/rows.py", "from poise.align.core import gae"),
        ("data/rows.py", "def f():\n    import poise.align"),
        ("data/rows.py", "from poise import align"),
        ("data/rows.py", "from ..align import core"),
        ("data/adapters/x.py", "from ...align import core"),
        ("guard/x.py", "from poise.data.neardup import _root"),
        ("guard/x.py", "from poise.data import _columns"),
        ("guard/x.py", "import poise.data._columns"),
        ("harm/x.py", "import numpy as np"),
        ("harm/x.py", "from poise.metrics import auroc"),
        ("metrics.py", "import torch"),
        ("metrics.py", "from poise.data import Judgement"),
        ("errors.py", "from poise.harm import Label"),
        ("kitchen/x.py", "from poise.harm import Label"),
    ],
)
def test_the_import_check_finds(file: str, source: str) -> None:
    assert len(import_faults(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/x.py", "import numpy\nfrom poise.harm import Label\nfrom poise.metrics import auroc"),
        ("data/x.py", "from poise.data.neardup import _root\nfrom . import rows\nfrom .rows import Row"),
        ("data/x.py", "from poise import __version__\nimport poise\nfrom poise.errors import PoiseError"),
        ("harm/x.py", "from __future__ import annotations\nimport tomllib\nfrom poise.harm.label import Label"),
        ("metrics.py", "import math\nimport numpy as np\nfrom poise.harm import Severity"),
        ("cli/x.py", "from poise.pipeline import run\nfrom poise.align.core import gae"),
        ("__main__.py", "from poise.cli.main import main"),
    ],
)
def test_the_import_check_allows(file: str, source: str) -> None:
    assert import_faults(file, source) == []


def test_the_other_checks_find() -> None:
    body = "    x = 1\n" * 69
    assert size_faults("f.py", f"def f():\n{body}") == []
    assert size_faults("f.py", f"@cache\ndef f():\n{body}") == ["f.py:1 f has 71 lines"]
    assert size_faults("f.py", "x = 1\n" * 351) == ["f.py has 351 lines"]
    source = "class A:\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    'Said.'\n@overload\ndef h(): ..."
    assert docstring_faults("f.py", source) == [
        "f.py has no docstring",
        "f.py:1 A has no docstring",
        "f.py:2 A.f has no docstring",
    ]
