"""What must never be shown or kept, and how text is cleared of it: keys, passwords, what signs an address.

A key travels in one header and nowhere else. This module is for all the ways it could come back: a server that repeats
it in its error message, an exception that names a proxy, a signed address in a row that the provider could not fetch, the
environment that a child process inherits. Text of our own making never holds a secret to begin with.

    Secrets          the known ones of a run, taken out of any text, whole or cut short
    without_url_secrets    the unknown ones in addresses: user info, and query values that sign or log in
    printable        foreign text without what a terminal would obey
    logged_without   the log, with both taken out of every record, tracebacks included
    without_secrets  an environment for processes that need no key
"""

import base64
import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
# A shorter value ("EMPTY", "ollama", "none") protects nothing, and would be found in ordinary words.
_LEAST_CHARS = 8
# A text may have been cut within a secret: so much of its beginning is enough to know it by.
_KNOWN_BY_CHARS = 12

_KEY_NAME = re.compile(
    r"(?:(?:api|access|secret|auth|private|subscription|account|signing|encryption)_?key(?:_?id)?"
    r"|(?:access|auth|api|bearer|security|session|refresh|private|id)_?token|(?:^|^x_)token"
    r"|authorization|secret|password|passwd|credentials?|cookie)$"
)
_KEY_VARIABLE = re.compile(r"(?:key(?:_?id)?|token|secret|passw(?:or)?d|pass|credentials?)$")
# Where nothing is refused, only left out of an address or an environment, more names count.
_SECRET_NAME = re.compile(r"sig|token|key|secret|passw|pwd|auth|cred|cookie|session|jwt|hmac|policy")
_SHOWN_NAMES = frozenset({"pwd", "oldpwd"})  # the working folder, as shells name it
_RANDOM_CHARS = 32
_URL = re.compile(
    r"\b([a-z][a-z0-9+.-]{0,30}://)([^\s/?#\"'<>]*@)?([^\s?#\"'<>]*)(\?[^\s#\"'<>]*)?", re.IGNORECASE
)
_QUERY_VALUE = re.compile(r"([^?&;=]*)=([^&;]*)")


def is_key_name(name: str) -> bool:
    """Whether a header or parameter of this name carries a key, so that its value has no place in a job file."""
    return _KEY_NAME.search(_flat(name)) is not None


def _flat(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


class Secrets:
    """The secrets of one run: its key, its headers, its proxy's password. Its repr shows none."""

    __slots__ = ("_forms",)

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: dict[str, set[str]] = {}  # by their beginning
        for value in values:
            if len(value) >= _LEAST_CHARS:
                for form in (value, quote(value, safe=""), json.dumps(value)[1:-1]):
                    self._forms.setdefault(form[:_KNOWN_BY_CHARS], set()).add(form)

    def __repr__(self) -> str:
        return f"Secrets({len(self._forms)})"

    def masked(self, text: str) -> str:
        """The text without any of them, also where it was cut within one."""
        for beginning, forms in self._forms.items():
            at = text.find(beginning)
            while at >= 0:
                end = at + max(_alike_chars(text, at, form) for form in forms)
                text = text[:at] + MASK + text[end:]
                at = text.find(beginning, at + len(MASK))
        return text


def _alike_chars(text: str, at: int, form: str) -> int:
    pairs = zip(text[at : at + len(form)], form, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def proxy_secrets(proxy: str | None) -> list[str]:
    """The password in a proxy's address as it stands there, as it is meant, and as it goes over the wire."""
    if proxy is None:
        return []
    try:
        parts = urlsplit(proxy)
    except ValueError:
        return []
    if not parts.password:
        return []
    user, password = unquote(parts.username or ""), unquote(parts.password)
    return [parts.password, password, base64.b64encode(f"{user}:{password}".encode()).decode()]


def environment_secrets(env: Mapping[str, str]) -> Secrets:
    """The keys and passwords in an environment, told by the names of its variables, or by a password within an address."""
    keys = [value for name, value in env.items() if _KEY_VARIABLE.search(_flat(name))]
    return Secrets([*keys, *(one for value in env.values() if "@" in value for one in proxy_secrets(value))])


def without_secrets(env: Mapping[str, str], *names: str | None) -> dict[str, str]:
    """An environment without the variables in `names`, what else may hold a key, and the way to proxies."""
    return {
        name: value
        for name, value in env.items()
        if name not in names and not name.lower().endswith("_proxy") and not _may_be_secret(name, value)
    }


def _may_be_secret(name: str, value: str) -> bool:
    flat = _flat(name)
    if flat in _SHOWN_NAMES:
        return False
    found = _URL.match(value)
    return _SECRET_NAME.search(flat) is not None or (found is not None and found[2] is not None)


def without_url_secrets(text: str) -> str:
    """Text with the addresses in it cleared of user info and of query values that sign, log in, or look drawn by lot."""
    return _URL.sub(_cleared_url, text) if "://" in text else text


def _cleared_url(found: re.Match[str]) -> str:
    scheme, user, place, query = found.groups()
    shown_user = "" if user is None else f"{MASK}@"
    shown_query = "" if query is None else _QUERY_VALUE.sub(_cleared_value, query)
    return f"{scheme}{shown_user}{place}{shown_query}"


def _cleared_value(found: re.Match[str]) -> str:
    name, whole = found.groups()
    value = whole.rstrip(".,:)]}")  # the sentence's, not the address's
    hidden = value and (_SECRET_NAME.search(_flat(name)) or len(value) >= _RANDOM_CHARS)
    return f"{name}={MASK if hidden else value}{whole[len(value) :]}"


# Control characters but tab and line feed, what is invisible or turns the direction of writing, halves of surrogate pairs.
_NOT_PRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Text as a terminal may have it: what it would obey instead of showing stands there as its escape, also valid in JSON."""
    return _NOT_PRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


class _MaskingFilter(logging.Filter):
    """Clears each record, its traceback included, before any handler sees it."""

    _formatter = logging.Formatter()

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._cleared(record.getMessage()), None
        if record.exc_info:
            # Handlers show this text, where it is there, instead of making one of the exception.
            record.exc_text = self._cleared(self._formatter.formatException(record.exc_info))
        return True

    def _cleared(self, text: str) -> str:
        return without_url_secrets(self._secrets.masked(text))


@contextlib.contextmanager
def logged_without(secrets: Secrets, log: logging.Logger) -> Iterator[None]:
    """Clear what goes to `log` while the block runs."""
    masking = _MaskingFilter(secrets)
    log.addFilter(masking)
    try:
        yield
    finally:
        log.removeFilter(masking)
