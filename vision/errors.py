"""The one kind of error that a user can cause and mend."""


class UserError(Exception):
    """A mistake in what the user gave: a config, a path, a file.

    The message is one or two lines: what is wrong, where, and what to do. Commands print it without a traceback
    and exit with code 2.
    """


class RunError(Exception):
    """A run that cannot go on, such as one whose loss is no longer finite. Printed like a `UserError`; exit code 1."""
