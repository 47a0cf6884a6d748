"""The categories of notifications, as an optional file of the app declares them: what goes for all of a kind.

The file is a JSON array of objects with `name`, `onUnknown` and `simulate`. A category that is not declared has the
rules of the one named `default`, and these are the defaults below where it is not declared either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from shared.settings import SettingsError

#: Where the file is, when `HERALD_CATEGORIES_FILE` names no other; relative to the folder of `host.json`.
FILE = "categories.json"
DEFAULT = "default"


class Category(BaseModel):
    """What goes for notifications of this category that do not say otherwise themselves."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    on_unknown: Literal["resend", "stop"] = "resend"
    simulate: bool = False


class Categories:
    def __init__(self, declared: list[Category]) -> None:
        self._by_name = {category.name: category for category in declared}
        self._default = self._by_name.get(DEFAULT, Category(name=DEFAULT))

    def of(self, name: str) -> Category:
        """The rules of a category, declared or not."""
        return self._by_name.get(name, self._default)


def load(file: str) -> Categories:
    """The categories that `file` declares, or none where it is "" and there is no `categories.json`.

    Raises `SettingsError` with one line.
    """
    path = Path(file or FILE)
    if not file and not path.exists():
        return Categories([])
    try:
        return Categories(TypeAdapter(list[Category]).validate_json(path.read_bytes()))
    except OSError as error:
        raise SettingsError(f"HERALD_CATEGORIES_FILE cannot be read: {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: /{where}: {first['msg']}") from None
