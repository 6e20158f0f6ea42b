"""Reading another library's config.json: every setting is either understood or refused by name."""

from collections.abc import Mapping
from typing import Any

from jdiff.common.errors import UserError


class Settings:
    """A config.json with its class's defaults. `take` reads a setting; `allow` refuses all values but the given ones;
    `finish` refuses what nobody read.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]):
        self.kind = config.get("_class_name", "the model")
        self._values = {**defaults, **{name: value for name, value in config.items() if not name.startswith("_")}}
        self._unread = set(self._values)

    def take(self, name: str) -> Any:
        self._unread.discard(name)
        value = self._values[name]
        return tuple(value) if isinstance(value, list) else value

    def allow(self, name: str, *values: Any) -> Any:
        value = self.take(name)
        if value not in values:
            raise self.unknown(name, f"only {' or '.join(repr(known) for known in values)} is")
        return value

    def ignore(self, *names: str) -> None:
        """What changes no output."""
        self._unread.difference_update(names)

    def finish(self) -> None:
        if self._unread:
            raise self.unknown(min(self._unread), "no setting of this name is")

    def unknown(self, name: str, known: str) -> UserError:
        """An error to raise: the value of a setting is none that we have. `known`: what is."""
        return UserError(f"{self.kind}: {name}={self._values[name]!r} is not known here; {known}")
