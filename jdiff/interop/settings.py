"""Reading another library's config.json, without overlooking a setting."""

from collections.abc import Mapping
from typing import Any

from jdiff.common.errors import UserError


class Settings:
    """A config.json with the defaults of its class. A setting is read, ignored on purpose, or refused (`finish`)."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]):
        self.kind = config.get("_class_name", "the model")
        self._values = {**defaults, **{name: value for name, value in config.items() if not name.startswith("_")}}
        self._unread = set(self._values)

    def take(self, name: str) -> Any:
        """The value of a setting, lists as tuples."""
        self._unread.discard(name)
        value = self._values[name]
        return tuple(value) if isinstance(value, list) else value

    def allow(self, name: str, *values: Any) -> Any:
        """The value of a setting. Raises UserError for any but `values`."""
        value = self.take(name)
        if value not in values:
            raise self.unknown(name, f"only {' or '.join(repr(known) for known in values)} is")
        return value

    def ignore(self, *names: str) -> None:
        """Pass over settings that change no output of the network."""
        self._unread.difference_update(names)

    def finish(self) -> None:
        """Raises UserError for a setting that was neither read nor ignored."""
        if self._unread:
            raise self.unknown(min(self._unread), "no setting of this name is")

    def unknown(self, name: str, known: str) -> UserError:
        """The error that this setting's value is not supported. known: its last words, which say what is."""
        return UserError(f"{self.kind}: {name}={self._values[name]!r} is not known here; {known}")
