"""What a user sees when something is wrong: one line that says what, got, and what to do."""


class ReidgeError(Exception):
    """A failure with a one-line explanation meant for the user; the command ends with exit status 1."""

    exit_status = 1


def reason_of(error: BaseException) -> str:
    """Why something failed, for people: of what the system or a broker says, without names of classes and numbers."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if text and isinstance(error, OSError | ReidgeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class InputError(ReidgeError, ValueError):
    """The user's input is missing, malformed or contradictory; the command ends with exit status 2."""

    exit_status = 2
