"""What every notification carries besides its content: by what people act on it, and decide about more of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from shared.categories import Category
from shared.contract import Notification


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls of the notification of this key: of its category, and of its thread where it has one."""

    key: str
    category: str
    mandatory: bool
    thread: bool

    @classmethod
    def of(cls, key: str, content: Notification, category: Category) -> Self:
        return cls(key, category.label, category.mandatory, content.thread is not None)
