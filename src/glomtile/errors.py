"""Errors with messages a user can act on, and the exit code of each kind."""

from __future__ import annotations

from collections.abc import Callable


class GlomtileError(Exception):
    """An error that names the place, what was expected and what was received.

    Parameters
    ----------
    where : object
        The file, folder, config line or argument at fault; printed first.
    message : str
        ``"expected …, got …"``, without a full stop.
    hint : str, optional
        What to try, printed behind the message.

    Attributes
    ----------
    exit_code : int
        What the command ends with when this error reaches it.
    """

    exit_code = 1

    def __init__(self, where: object, message: str, hint: str | None = None) -> None:
        self.where = str(where)
        self.message = message
        self.hint = hint
        super().__init__(f"{self.where}: {message}" + (f" ({hint})" if hint else ""))

    def __reduce__(self) -> tuple[Callable[..., GlomtileError], tuple[object, ...]]:
        # An error may come from another process; what `Exception` remembers is the whole line only, and a
        # kind of error may be made from other arguments than these.
        return _again, (type(self), self.where, self.message, self.hint)


def _again(kind: type[GlomtileError], where: str, message: str, hint: str | None) -> GlomtileError:
    """Make the error of a kind without its own arguments."""
    error = kind.__new__(kind)
    GlomtileError.__init__(error, where, message, hint)
    return error


class UsageError(GlomtileError):
    """The command line or the call is contradictory or incomplete."""

    exit_code = 2


class LockedError(UsageError):
    """Another run works in the folder."""


class ConfigError(GlomtileError):
    """A setting is missing, of the wrong type, out of range or contradicts another."""

    exit_code = 2


class ArgumentError(UsageError):
    """An argument of a function, or the command's option of that name, has a wrong type or value.

    Parameters
    ----------
    name : str
        As the function calls it; the command shows it as an option.
    expected : str
        In words.
    received : object
        What came: text is shown as text, anything else as its type and value.
    hint : str, optional
    """

    def __init__(self, name: str, expected: str, received: object, hint: str | None = None) -> None:
        shown = repr(received)
        if len(shown) > 80:
            shown = shown[:80] + "…"
        if received is not None and not isinstance(received, str):
            shown += f" ({type(received).__name__})"
        super().__init__(name, f"expected {expected}, got {shown}", hint)


class InputError(GlomtileError):
    """An image, mask or folder cannot be used."""


class ModelError(GlomtileError):
    """A model folder is missing, damaged or does not fit the task."""

    exit_code = 2


class StorageError(GlomtileError):
    """An output cannot be written: no space, no permission, not a folder."""


class PlaceError(StorageError):
    """The place named for an output can be none: no permission, below a file, a read-only disk."""

    exit_code = 2


class ClusterError(GlomtileError):
    """The scheduler or the workers of a cluster were lost."""


class MissingExtraError(GlomtileError):
    """An optional part of the installation is needed and absent."""

    exit_code = 2
