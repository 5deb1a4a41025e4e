"""A search tree as a reader follows it: step by step along the chosen branch, at each step the
branches that were compared, and aside of them what was played to value them (the paper's Figure 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.text import Text
from rich.tree import Tree as RichTree

from sage_core.sac import parse
from sage_core.schema import SearchNode
from sage_core.states import SINGLE

_WIDTH = 96  # columns of a tree in text; Prefect's page shows a hundred at once


@dataclass(frozen=True)
class Branch:
    """A node, and what hangs on it aside of the chosen path."""

    node: SearchNode
    aside: tuple["Branch", ...]


def steps(nodes: Sequence[SearchNode]) -> list[tuple[Branch, ...]]:
    """The branches of each step of one tree, from the situation on; the chosen one, if any was, is
    what the next step's hang on."""
    below: dict[int, list[SearchNode]] = {}
    for node in nodes:
        below.setdefault(node.parent, []).append(node)

    def ahead(node: SearchNode) -> list[SearchNode]:
        """What the chosen path goes on with."""
        if not node.chosen:
            return []
        return [each for each in below.get(node.node, []) if each.kind != "look_ahead"]

    def branch(node: SearchNode) -> Branch:
        onward = {each.node for each in ahead(node)}
        children = [each for each in below.get(node.node, []) if each.node not in onward]
        return Branch(node, tuple(branch(each) for each in children))

    found = []
    level = below.get(-1, [])
    while level:
        found.append(tuple(branch(node) for node in level))
        chosen = [node for node in level if node.chosen]
        level = ahead(chosen[0]) if chosen else []
    return found


def as_text(nodes: Sequence[SearchNode]) -> str:
    """One tree in text: ``>`` marks what was chosen, votes are in brackets, states before words;
    looks ahead are marked ``…``."""
    root = RichTree(Text(""), hide_root=True)
    places = {-1: root}
    for node in nodes:
        places[node.node] = places[node.parent].add(Text(_line(node)))
    console = Console(file=StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    console.print(root)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def _line(node: SearchNode) -> str:
    mark = {"look_ahead": "… "}.get(node.kind, "> " if node.chosen else "  ")
    votes = "" if node.votes is None else f"[{node.votes:g}] "
    if node.role == "user":
        return f"{mark}{votes}Person: {' '.join(node.content.split())}"
    chain = parse(node.content)
    action = " · ".join(value for field in SINGLE for value in field.of(chain.agent))
    said = " ".join(chain.utterance.split())
    return f"{mark}{votes}{f'({action}) ' if action else ''}{said}".rstrip()
