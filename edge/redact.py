"""Text without its secrets, fit for logs, events, metrics, answers and error messages.

Two nets, one behind the other. By form: user, password and query of every address, and what stands after
`password=`. By value: every secret that was remembered, however a library may have written it, and its parts.
"""

from __future__ import annotations

import html
import itertools
import re
import threading
from base64 import b64encode
from urllib.parse import quote, unquote

UNPARSEABLE = "<unparseable source>"
MARK = "***"
MIN_LENGTH = 4
"""Shorter secrets, and shorter parts of one, are hidden only where a password stands: they are in every other word."""
MIN_TRUNCATED = 8
"""Characters from the start of a secret that give it away although the rest is cut off."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}$")
"""What stands before a `://`; looked for from there, since a search from the left takes the square of a long word."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:\d+)?")
_SECRET_NAME = r"(?:pass(?:words?|wd|phrase)?|pwd?|tokens?|secret|credentials?|api[_-]?key)"
_ASSIGNMENT = re.compile(
    rf"(?i)((?:\b|[_-]){_SECRET_NAME}['\"]?(?:=|(?<=['\"]):\s*))(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&'\"]+)"
)
_NAME = re.compile(rf"(?i)(?:^|[_.-]){_SECRET_NAME}(?:$|[_.-]|\d+$)")


def redact(source: str) -> str:
    """Drop user, password and query from an address; a plain path stays as it is.

    The user part ends at the last `@`, because passwords contain `@`, `:` and `/`. Whatever could still hide a
    secret (a `?` before that `@`, `password=` in the path) is left out rather than guessed at.
    """
    return KNOWN.hide(_without_user(source))


def redact_text(text: str) -> str:
    """Redact every address, assignment and remembered secret inside a longer text, e.g. an exception of a library."""
    return KNOWN.hide(_ASSIGNMENT.sub(rf"\g<1>{MARK}", _redact_addresses(text)))


def remember_secret(value: str) -> None:
    """Let a value never come out again, in this process."""
    KNOWN.remember(value)


def remember_address(address: str) -> None:
    """Remember what is secret in an address: the password, and the values of `password=` and the like."""
    rest = address.partition("://")[2]
    user, _, place = rest.rpartition("@")
    name, _, password = user.partition(":")
    if password:
        remember_secret(password)
        plain = f"{unquote(name)}:{unquote(password)}"
        remember_secret(b64encode(plain.encode()).decode())  # as HTTP and RTSP send it
    for key, value in re.findall(r"([\w-]+)=([^&;#/]+)", place):
        if is_secret_name(key):
            remember_secret(value)


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable of this name holds a secret: `password`, `MQTT_TOKEN`."""
    return _NAME.search(name) is not None


class KnownSecrets:
    """Values that must not come out, and a pattern that finds them in any disguise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def remember(self, value: str) -> None:
        """Hide a value from now on; an empty one is none."""
        with self._lock:
            forms = {value, unquote(value)} - self._values - {""}
            if forms:
                self._values |= forms
                self._pattern = None

    def forget(self) -> None:
        """Hide nothing any more."""
        with self._lock:
            self._values.clear()
            self._pattern = None

    def hide(self, text: str) -> str:
        """Put a mark in the place of every secret."""
        with self._lock:
            if self._pattern is None and self._values:
                self._pattern = _pattern_of(self._values)
            pattern = self._pattern
        return text if pattern is None else pattern.sub(MARK, text)


KNOWN = KnownSecrets()
"""Of this process: a secret is one wherever it is printed, by whichever thread and library."""


def _without_user(source: str) -> str:
    if "://" not in source:
        return UNPARSEABLE if "@" in source and ":" in source.split("@")[0] else source
    scheme, rest = source.split("://", 1)
    if not rest and _SCHEME.fullmatch(scheme):  # "an rtsp:// address", in a sentence
        return source
    user, _, place = rest.rpartition("@")
    place = re.split(r"[?#&;]", place, maxsplit=1)[0]
    host, *path = place.split("/")
    known = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) and _HOST.fullmatch(host)
    if not known or re.search(r"[?#]", user):
        return UNPARSEABLE
    harmless = itertools.takewhile(lambda part: "=" not in part, path)
    return f"{scheme}://{'/'.join([host, *harmless])}"


def _redact_addresses(text: str) -> str:
    """Redact each address of a text; one with a blank in its password goes up to the `@` behind it."""
    pieces, done = [], 0
    ends = (match.start() for match in re.finditer("://", text))
    starts = [end - len(found.group()) for end in ends if (found := _SCHEME.search(text[max(0, end - 31) : end]))]
    for start, following in itertools.zip_longest(starts, starts[1:], fillvalue=len(text)):
        if start < done:  # a :// inside a password
            continue
        pieces.append(text[done:start])
        chunk = re.match(r"\S+", text[start:])
        assert chunk is not None
        address = chunk.group().rstrip("'\")]>,.;:")
        done = start + len(address)
        line_end = text.find("\n", done)
        beyond = text[done : min(max(following, done), len(text) if line_end < 0 else line_end)]
        hidden = re.match(r".*@\S*", beyond)
        pieces.append(UNPARSEABLE if hidden else _without_user(address))
        done += hidden.end() if hidden else 0
    return "".join([*pieces, text[done:]])


def _pattern_of(secrets: set[str]) -> re.Pattern[str]:
    """Wholes go before what is cut off and before parts, and longer ones before shorter ones."""
    kinds = zip(*map(_patterns, sorted(secrets, key=len, reverse=True)), strict=True)
    return re.compile("|".join(pattern for kind in kinds for each in kind for pattern in each))


def _patterns(secret: str) -> tuple[list[str], list[str], list[str]]:
    """Regular expressions for a secret as a whole, cut off, and in the parts that a parser of addresses makes."""
    if len(secret) < MIN_LENGTH:
        return [rf"(?<=[:=]){_any_form(secret)}(?=[@&\s\"';,)\]}}]|$)"], [], []
    least = max(MIN_TRUNCATED, -(-len(secret) * 3 // 5))
    cut_off = [_any_form(secret[:least]) + r"[^\s'\"<>,;]*"] if least < len(secret) else []
    parts = [part for part in re.split(r"[@:/?#&=%\s]+", secret) if MIN_LENGTH <= len(part) < len(secret)]
    return [_any_form(secret)], cut_off, list(map(_any_form, parts))


def _any_form(text: str) -> str:
    return "".join(map(_any_form_of_one, text))


def _any_form_of_one(character: str) -> str:
    """A character as it is, and as it stands in addresses, JSON, Python, HTML and shells."""
    if re.fullmatch(r"[A-Za-z0-9_.~-]", character):  # nothing escapes these
        return re.escape(character)
    percent = quote(character, safe="")
    code = ord(character)
    utf16 = character.encode("utf-16-be").hex()
    forms = {
        character,
        *((percent.replace("%", "%25"), percent) if "%" in percent else ()),
        *("+",) * (character == " "),
        "\\" + character,
        html.escape(character),
        f"&#{code};",
        f"&#x{code:x};",
        repr(character)[1:-1],
        ascii(character)[1:-1],
        "".join(f"\\x{byte:02x}" for byte in character.encode()),
        "".join(f"\\u{utf16[i : i + 4]}" for i in range(0, len(utf16), 4)),
    }
    escaped = (re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return "(?:" + "|".join(f"(?i:{form})" if "%" in form or "x" in form else form for form in escaped) + ")"
