"""Where a prompt comes from: nodes that name their parents, down to a seed or an imported row, with policy versions.

    <folder>/lineage.jsonl    one node a line: every prompt of the folder, and whatever was shown to make it

`check_lineage` walks from every prompt of a folder to its roots, so that anybody can hold a release against the
guideline that it was written by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from poise.collect.grid import Cell
from poise.data.rows import PromptRow, Sampling
from poise.data.tables import open_tables
from poise.errors import PoiseError
from poise.harm import Category, guidelines, policy_version

FILE = "lineage.jsonl"


@dataclass(frozen=True)
class Node:
    """One step in the making of a prompt.

    Args:
        id: of the prompt.
        text: the prompt.
        operation: "seed", "import", or the name of an operation.
        source: who made it: a model, a data set, "poise-seeds".
        parents: ids of what was shown.
        cell: for example "S6-minor", None where the row belongs to none.
        guideline: version of the category's page.
        policy: version of all pages together.
        template: version of the operation's words.
        sampling: how the model was asked.
        source_id: id of an imported row where it came from.
    """

    id: str
    text: str
    operation: str
    source: str
    parents: tuple[str, ...] = ()
    cell: str | None = None
    guideline: str | None = None
    policy: str | None = None
    template: str | None = None
    sampling: Mapping[str, Any] | None = None
    source_id: str | None = None

    def provenance(self) -> dict[str, Any]:
        """What stands in the row's own provenance: all but the text."""
        told = asdict(self)
        return {name: value for name, value in told.items() if name != "text" and value not in (None, ())}

    @classmethod
    def made(cls, id_: str, text: str, operation: str, source: str, cell: Cell, **more: Any) -> Node:
        """A node with the versions of the policy that stand now."""
        page = guidelines()[cell.category]
        return cls(
            id_, text, operation, source, cell=cell.name, guideline=page.version, policy=policy_version(), **more
        )

    @classmethod
    def of_seed(cls, row: PromptRow) -> Node:
        """A seed of the package."""
        version = None if row.category is None else guidelines()[Category.parse(row.category)].version
        return cls(row.id, row.prompt, "seed", row.provenance.source, guideline=version, policy=row.provenance.policy)


def sampling_json(how: Sampling) -> dict[str, Any]:
    """Sampling as it stands in a node."""
    return how.model_dump(mode="json")


def write_lineage(path: Path, nodes: Mapping[str, Node], wanted: Sequence[str]) -> int:
    """Write the nodes wanted and all their ancestors, parents before children; returns how many."""
    ordered: dict[str, None] = {}
    for id_ in wanted:
        _visit(id_, nodes, ordered)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for id_ in ordered:
            file.write(json.dumps(asdict(nodes[id_]), ensure_ascii=False) + "\n")
    return len(ordered)


def _visit(id_: str, nodes: Mapping[str, Node], ordered: dict[str, None]) -> None:
    stack = [(id_, False)]
    while stack:
        current, ready = stack.pop()
        if current in ordered:
            continue
        if ready:
            ordered[current] = None
            continue
        stack.append((current, True))
        stack += [(parent, False) for parent in nodes[current].parents if parent not in ordered]


def read_lineage(folder: Path) -> dict[str, Node]:
    """Id -> node.

    Raises:
        PoiseError: no such file, or a line that is no node.
    """
    path = folder / FILE
    nodes = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                node = Node(**json.loads(line))
                nodes[node.id] = node
    except (OSError, ValueError, TypeError) as error:
        raise PoiseError(
            f"no lineage ({type(error).__name__})", where=str(path), do="name a folder of `poise collect prompts`"
        ) from error
    return nodes


def ancestors(id_: str, nodes: Mapping[str, Node]) -> Iterator[tuple[int, Node | None, str]]:
    """(depth, node, id) from a prompt to its roots; None where a node is missing."""
    stack, seen = [(0, id_)], set[str]()
    while stack:
        depth, current = stack.pop()
        node = nodes.get(current)
        yield depth, node, current
        if node is None or current in seen:
            continue
        seen.add(current)
        stack += [(depth + 1, parent) for parent in reversed(node.parents)]


def check_lineage(folder: Path) -> tuple[int, list[str]]:
    """(prompts, those whose lineage is broken): a node is missing, names no policy, or its guideline is not known."""
    nodes, broken, count = read_lineage(folder), list[str](), 0
    tables = open_tables(folder)
    for record in tables["prompt"].records():
        count += 1
        chain = list(ancestors(record.source_id or "", nodes))
        whole = all(node is not None and (node.policy or node.operation == "import") for _, node, _ in chain)
        own = nodes.get(record.source_id or "")
        if not whole or own is None or own.guideline is None or own.policy is None:
            broken.append(record.source_id or f"row {count - 1}")
    return count, broken
