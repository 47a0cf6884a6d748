"""Change JSON files of a corpus into input that nobody would write: as bytes, and as values."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

TEXTS = (
    "", " ", "\x00", "\x1f", "\x7f", "\r\n", "\u2028", "\u202e", "\ufeff", "\uffff", "\ud800", "\udc00", "\U0001f600",
    "%00", "../", "<at>", "</at>", "&#0;", "]]>", ";messageid=", "@thread.tacv2", "28:", "*/", "FREQ=", "\n ", "9" * 20,
)  # fmt: skip
VALUES: Sequence[Any] = (None, True, False, 0, -1, 2**31, 2**63, 2**64, 0.5, 1e308, "")
#: JSON that Python would not write.
RAW = ("1e999", "-1e999", "9" * 5000, "0." + "1" * 400, "NaN", "-0", "1E400", "00", "nul", "[]", "{}", "[[]]", "[{}]")
PIECES = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b'"', b"\\", b"{", b"}", b",", b"\\ud83d", b"\xef\xbb\xbf")
_RAW = re.compile(r'"\\u0000raw:([^"]*)"')


class Mutator:
    """Makes inputs from the files of a corpus; the same generator of random numbers makes the same ones."""

    def __init__(self, rng: random.Random, corpus: Sequence[bytes], max_bytes: int) -> None:
        self._rng, self._corpus, self._max_bytes = rng, corpus, max_bytes

    def mutate(self) -> bytes:
        """Return one file with up to four changes of its values, or of its bytes, or of both."""
        body = self._rng.choice(self._corpus)
        if self._rng.random() < 0.8 and (value := _parse(body)):
            for _ in range(self._rng.choice((1, 1, 1, 2, 4))):
                if value:
                    self._change_value(value)
            text = json.dumps(value, ensure_ascii=self._rng.random() < 0.5)
            text = _RAW.sub(lambda found: found[1], text).replace('\\u0000again"', '"')
            body = text.encode("utf-8", "surrogatepass")
        for _ in range(self._rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 8))):
            body = self._change_bytes(body)
        return body[: self._max_bytes]

    def _change_bytes(self, body: bytes) -> bytes:
        rng, other = self._rng, self._rng.choice(self._corpus)
        start, end = sorted((rng.randrange(len(body) + 1), rng.randrange(len(body) + 1)))
        flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in body[start : start + 1])
        return rng.choice((
            body[:start],
            body[:start] + flipped + body[start + 1 :],
            body[:start] + rng.choice(PIECES) + body[start:],
            body[:start] + body[end:],
            body[:start] + other[rng.randrange(len(other) + 1) :],
            body.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "utf-7")), "replace"),
        ))  # fmt: skip

    def _change_value(self, value: Any) -> None:
        rng, (container, key) = self._rng, self._pick_place(value)
        old = container[key]
        match rng.randrange(8):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[f"{key}\x00again"] = rng.choice(VALUES)
            case 2:
                container[key] = rng.choice((*VALUES, f"\x00raw:{rng.choice(RAW)}"))
            case 3:
                depth = rng.choice((2, 50, 120, 250, 260, 1000, 1030, 5000))
                container[key] = [old] if depth == 2 else f"\x00raw:{'[' * depth}{']' * depth}"
            case 4:  # a part of another file
                other, name = self._pick_place(_parse(rng.choice(self._corpus)) or [None])
                container[key] = other[name]
            case 5 if isinstance(container, dict):
                container[rng.choice((key.upper(), key + rng.choice(TEXTS), "$" + key))] = container.pop(key)
            case 6 if isinstance(container, list):
                container.extend([old] * (3 if isinstance(old, dict | list) else 500))
            case _:
                container[key] = self._change_text(old) if isinstance(old, str) else str(old)

    def _change_text(self, text: str) -> str:
        at = self._rng.randrange(len(text) + 1)
        more = self._rng.choice(TEXTS) * self._rng.choice((1, 1, 1, 300, 20_000))
        return self._rng.choice((text[:at] + more + text[at:], text[:at], text[at:], text.swapcase(), text[:at] + more))

    def _pick_place(self, value: Any) -> tuple[Any, Any]:
        """Return a container within a value that is not empty, and one of its keys."""
        places, open_parts = [], [value]
        for part in open_parts:
            found = [(part, key) for key in (part if isinstance(part, dict) else range(len(part)))]
            open_parts += [part[key] for part, key in found if isinstance(part[key], dict | list)]
            places += found
        return self._rng.choice(places)


def _parse(body: bytes) -> Any:
    """Return the object or list in a file; an empty list if there is none."""
    with suppress(ValueError):
        value = json.loads(body)
        return value if isinstance(value, dict | list) else []
    return []
