"""What a user sees when something is wrong: one line that says what, got, and what to do."""


class ReidgeError(Exception):
    """A failure with a one-line explanation meant for the user; the command ends with exit status 1."""

    exit_status = 1


class InputError(ReidgeError, ValueError):
    """The user's input is missing, malformed or contradictory; the command ends with exit status 2."""

    exit_status = 2
