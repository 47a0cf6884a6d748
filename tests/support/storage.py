"""The storage of a test: in memory, or an account of Azurite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.queues import Queues
from shared.storage.clients import open_storage
from shared.storage.table import Table
from tests.support.memory import MemoryAccount, MemoryTable


@dataclass
class Storage:
    """One account, for any number of workers. Without a `connection` string, it is in memory.

    `table` and `queues` are the classes that the app uses for it.
    """

    connection: str = ""
    table: type[Table] = MemoryTable
    queues: type[Queues] = Queues
    _account: MemoryAccount = field(default_factory=MemoryAccount)

    def __post_init__(self) -> None:
        if self.connection:
            self.table = Table

    def open(self) -> tuple[Any, Any]:
        """Return the clients of one worker, as `shared.storage.clients.open_storage` does."""
        if self.connection:
            return open_storage({"AzureWebJobsStorage": self.connection})
        return self._account, self._account
