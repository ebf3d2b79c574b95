"""The user's own catalogue files, laid over the built-in ones: an entry's keys win, what it leaves out stays as built in.

A file holds any number of providers:

    checked = 2026-11-28                 # when its figures were compared with their source; an entry may have its own
    [dashscope.models."qwen-plus"]       # the fields of `schema.Model`
    tiers = [{ input = 0.7, output = 1.8 }]
    [compatible]
    currency = "USD"                     # of all prices in this provider's table
    [compatible.models."my-model"]
    tiers = [{ input = 0.1, output = 0.3 }]

A key that holds a list or a table is taken whole. Where `currency` is another than the built-in one, the built-in prices of that
provider, which are in the old one, are no longer known.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pipeline.catalog import load, provider_names
from pipeline.catalog.schema import Model, Provider, Source
from pipeline.errors import JobError

_KEYS = ("currency", "models", "sources")
_FILE = "promptmill/catalogue.toml"
_Kind = TypeVar("_Kind", Model, Provider, Source)
_AT = re.compile(r" - at `\$\.?(.*)`$")


def user_files(env: Mapping[str, str], more: Path | None = None) -> list[Path]:
    """The catalogue in the user's configuration folder where there is one (XDG Base Directory Specification), then `more`."""
    found = []
    for variable, below in (("XDG_CONFIG_HOME", _FILE), ("HOME", f".config/{_FILE}")):
        folder = Path(env.get(variable, ""))
        if folder.is_absolute():
            # One in a folder that we may not enter, as of another user's HOME, is none of ours.
            found = [folder / below] if os.path.exists(folder / below) else []  # noqa: PTH110  (Path.exists raises there)
            break
    return [*found, more] if more is not None else found


class Catalogue:
    """All providers, with a user's files laid over them, later ones over earlier ones.

    Raises JobError where a file cannot be read, or holds what no catalogue does; it names the file, the place and the way out.
    """

    def __init__(self, files: Sequence[Path] = ()) -> None:
        self._providers: dict[str, Provider] = {}
        self._origins: dict[tuple[str, str], Path] = {}
        for file in files:
            for name, table in _tables(file):
                self._providers[name] = _laid_over(self.load(name), table, file)
                self._origins.update({(name, model): file for model in table.get("models", {})})

    def load(self, provider: str) -> Provider:
        """A provider by its name. Raises JobError for an unknown one."""
        return self._providers.get(provider) or load(provider)

    def origin(self, provider: str, model: str) -> Path | None:
        """The file that an entry is from, or that last changed it; None where it is as built in."""
        return self._origins.get((provider, model))


def _tables(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The providers of a file with their tables, each entry with its day and its source."""
    try:
        # Decimals, so that an amount is what is written and not the nearest binary fraction.
        raw = tomllib.loads(file.read_bytes().decode(), parse_float=Decimal)
    except OSError as error:
        raise JobError(f"the catalogue {file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOML's own, which says the line, or no UTF-8
        raise JobError(f"the catalogue {file} is no TOML file: {error}") from None
    checked = raw.pop("checked", None)
    for name, table in raw.items():
        if name not in provider_names():
            near = get_close_matches(name, provider_names(), n=1)
            hint = (
                f"did you mean [{near[0]}]?" if near else f"the providers are {', '.join(provider_names())}"
            )
            raise JobError(
                f'{file}: {name!r} is no provider; {hint} Write an entry as [dashscope.models."qwen-plus"]'
            )
        if not isinstance(table, dict) or (strange := sorted(set(table) - set(_KEYS))):
            found = "a value" if not isinstance(table, dict) else repr(strange[0])
            raise JobError(f"{file}: [{name}] takes the keys {', '.join(_KEYS)}; found {found}")
        for key in ("models", "sources"):
            if not all(
                isinstance(entry, dict) for entry in _entries(table, key, f"{file}: [{name}]").values()
            ):
                raise JobError(f'{file}: [{name}.{key}] holds tables: write [{name}.{key}."NAME"]')
        if checked is not None:
            for entry in table.get("models", {}).values():
                entry.setdefault("checked", checked)
        yield name, table


def _entries(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    entries = table.get(key, {})
    if not isinstance(entries, dict):
        raise JobError(f"{where} {key} is a table; found {entries!r}")
    return entries


def _laid_over(base: Provider, table: dict[str, Any], file: Path) -> Provider:
    currency = table.get("currency", base.currency)
    models = dict(base.models)
    if currency != base.currency:
        models = {name: msgspec.structs.replace(model, tiers=()) for name, model in models.items()}
    sources = dict(base.sources)
    for name, source in table.get("sources", {}).items():
        sources[name] = _converted(source, Source, f'{file}: [{base.name}.sources."{name}"]')
    for name, own in table.get("models", {}).items():
        place = f'{file}: [{base.name}.models."{name}"]'
        if not isinstance(own.get("checked"), date):
            raise JobError(
                f"{place} needs checked = YYYY-MM-DD, the day on which its figures were compared with their source; "
                "once at the top of the file is enough"
            )
        builtin = msgspec.to_builtins(models[name]) if name in models else {}
        if "source" not in own:
            sources[str(file)] = Source(page=str(file), as_of=f"{own['checked']:%Y-%m}")
            own["source"] = [*builtin.get("source", ()), str(file)]
        models[name] = _converted(builtin | own, Model, place)
    whole = {**msgspec.structs.asdict(base), "currency": currency, "sources": sources, "models": models}
    whole["price_version"] = _version(base, models, table)
    return _converted(whole, Provider, f"{file}: [{base.name}]")


def _converted(raw: Any, to: type[_Kind], place: str) -> _Kind:
    try:
        return msgspec.convert(raw, to)
    except ValueError as error:
        raise JobError(f"{place} {_AT.sub(_below, str(error))}") from None


def _below(match: re.Match[str]) -> str:
    return f" (at {match[1]})" if match[1] else ""


def _version(base: Provider, models: Mapping[str, Model], table: Mapping[str, Any]) -> str:
    """As a built-in file's: the newest day anything was checked, and which state of the figures this is."""
    newest = max((model.checked for model in models.values()), default=None)
    state = msgspec.json.encode([base.price_version, table], order="sorted")
    digest = hashlib.sha256(state).hexdigest()[:8]
    return f"{newest}-{digest}" if newest else digest
