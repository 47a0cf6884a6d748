"""The categories of notifications, as the app's optional categories file declares them.

The file is a JSON array of objects with the fields of `Category`, in camelCase. A category that is not declared has the
settings of the one named `default`, or else the defaults below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from shared.states import Mode, SettingsError

#: Path of the file if `HERALD_CATEGORIES_FILE` is not set, relative to the folder of `host.json`.
DEFAULT_FILE = "categories.json"
DEFAULT = "default"
#: Largest file.
MAX_FILE_BYTES = 1024 * 1024


class Category(BaseModel):
    """The settings of a category's notifications, unless a notification overrides them.

    `title` and `description` are shown to people. `default` is the mode of people who chose none. A `mandatory`
    category may go to the digest, but cannot be switched off, paused or muted. Scheduled notifications are sent up to
    `grace_minutes` late (None: `HERALD_LATE_GRACE_MINUTES`).
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    title: Annotated[str, StringConstraints(max_length=100)] = ""
    description: Annotated[str, StringConstraints(max_length=300)] = ""
    default: Mode = Mode.IMMEDIATE
    mandatory: bool = False
    bypasses_quiet_hours: bool = False
    on_unknown: Literal["resend", "stop"] = "resend"
    grace_minutes: Annotated[int, Field(ge=1, le=7 * 24 * 60)] | None = None
    simulate: bool = False

    @property
    def label(self) -> str:
        """Return the name that people see."""
        return self.title or self.name[:1].upper() + self.name[1:]

    def late_grace(self, default: timedelta) -> timedelta:
        """Return how late a scheduled notification may still be sent."""
        return default if self.grace_minutes is None else timedelta(minutes=self.grace_minutes)


class Categories:
    def __init__(self, declared: Sequence[Category]) -> None:
        self._by_name = {category.name: category for category in declared}
        self._default = self._by_name.get(DEFAULT, Category(name=DEFAULT))
        self._undeclared = lru_cache(maxsize=1024)(self._like_default)

    @property
    def declared(self) -> Sequence[Category]:
        """The categories that people can configure, in the order of the file."""
        return [category for name, category in self._by_name.items() if name != DEFAULT]

    def is_declared(self, name: str) -> bool:
        return name in self._by_name

    def of(self, name: str) -> Category:
        """Return a category, declared or not."""
        return self._by_name.get(name) or self._undeclared(name)

    def including(self, names: Iterable[str]) -> Categories:
        """Return these categories, and after the declared ones those of `names` that are not declared."""
        more = [self.of(name) for name in sorted(names) if name not in self._by_name]
        return Categories([*self._by_name.values(), *more])

    def _like_default(self, name: str) -> Category:
        return self._default.model_copy(update={"name": name, "title": "", "description": ""})


def load_categories(file: str) -> Categories:
    """Return the categories that `file` declares; none if it is "" and there is no `categories.json`.

    Raises `SettingsError` with one line.
    """
    path = Path(file or DEFAULT_FILE)
    if not file and not path.exists():
        return Categories([])
    try:
        with path.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise SettingsError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
        return Categories(TypeAdapter(list[Category]).validate_json(text))
    except OSError as error:
        raise SettingsError(f"HERALD_CATEGORIES_FILE cannot be read: {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: /{where}: {first['msg']}") from None
