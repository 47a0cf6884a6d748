"""The triggers of `timer_digest`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.queue_messages import RecipientTask, Task
from timer_digest import functions


async def test_process_limits_concurrent_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def release(_services: Any, _task: RecipientTask) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    monkeypatch.setattr(functions, "release", release)
    monkeypatch.setattr(functions, "_release_limit", asyncio.Semaphore(functions.MAX_CONCURRENT_RELEASES))
    task = RecipientTask("t", "u:1", Task.RELEASE)
    await asyncio.gather(*(functions._release(None, task) for _ in range(50)))  # type: ignore[arg-type]
    assert most == functions.MAX_CONCURRENT_RELEASES
