"""Errors that a user can mend."""


class UserError(ValueError):
    """A user's mistake, or a fault in what they gave us (a file, a key, a disk).

    The message is one line that names what is wrong and says what to do; the command prints it without a
    traceback and exits with status 1.
    """
