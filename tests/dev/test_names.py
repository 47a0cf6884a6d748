"""No module, class, function, parameter, field or column has a name that the glossary replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "local", "messages", "notify", "shared", "tests", "timer_digest")

#: Names that `docs/glossary.md` replaced, as whole names.
REPLACED_NAMES = frozenset(
    [
        "Addressee",
        "Bound",
        "Case",
        "Counted",
        "Desk",
        "Due",
        "Ended",
        "Lanes",
        "Later",
        "Marks",
        "NotNow",
        "Parting",
        "Person",
        "Press",
        "Refused",
        "Story",
        "Turn",
        "Waiting",
        "Waking",
        "Wants",
        "ALONE",
        "KEPT",
        "LONGEST",
        "MOST",
        "PATIENCE",
        "SOON",
        "acceptance",
        "acting",
        "amending",
        "announcing",
        "arranging",
        "brought",
        "chances",
        "choosing",
        "controls",
        "conversing",
        "copies",
        "counted",
        "digesting",
        "doing",
        "early",
        "finish_only",
        "following",
        "forget",
        "go_through",
        "hurry",
        "keep",
        "leave",
        "let_go",
        "look_after",
        "make_way",
        "outbox",
        "patient",
        "place",
        "preferring",
        "pressing",
        "recurring",
        "redriving",
        "releasing",
        "rescue",
        "responding",
        "reasons",
        "saving",
        "say",
        "seen",
        "stand",
        "stands",
        "stories",
        "story",
        "take_in",
        "telling",
        "together",
        "turn",
        "unheld",
        "untold",
        "via",
        "wake",
        "waking",
        "watch",
        "wish",
        "wishes",
        "wants",
        "wording",
    ]
)
#: Words that no part of a name is.
REPLACED_WORDS = frozenset(
    ["addressee", "told", "tell", "telling", "tongue", "unheld", "untold", "wish", "wishes", "woken"]
)

#: Names that have another meaning here than the one that was replaced.
EXCEPTIONS = {
    "local/fake_teams/world.py: Person",  # a person of the fake Teams
}


def find_names(tree: ast.AST, *, is_table: bool) -> Iterator[str]:
    """Yield the names that a module defines, and, in a module of a table, its columns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif is_table and isinstance(node, ast.Constant) and re.fullmatch("[a-z_]+", str(node.value)):
            yield str(node.value)


def is_replaced(name: str) -> bool:
    plain = name.strip("_")
    return plain in REPLACED_NAMES or bool(REPLACED_WORDS & set(plain.lower().split("_")))


def test_no_name_is_one_that_the_glossary_replaced() -> None:
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if "node" in path.parts:
                continue
            where = path.relative_to(ROOT).as_posix()
            names = {path.stem, *find_names(ast.parse(path.read_text()), is_table="shared/storage" in where)}
            found |= {f"{where}: {name}" for name in names if is_replaced(name)}
    assert found == EXCEPTIONS
