"""The triggers of the clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.queue_messages import RecipientTask, Task
from timer_digest import functions


async def test_only_so_many_people_are_seen_to_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0

    async def release(_services: Any, _person: RecipientTask) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    monkeypatch.setattr(functions, "release", release)
    person = RecipientTask("t", "u:1", Task.RELEASE)
    await asyncio.gather(*(functions._release(None, person) for _ in range(50)))  # type: ignore[arg-type]
    assert most == functions.MAX_CONCURRENT_RELEASES
