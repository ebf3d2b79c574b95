"""The model catalogue: one TOML file a provider, read when that provider is asked for.

The files say what a provider's models cost, are limited to and can do, each entry dated and sourced; this
module reads and checks them. No network, no arithmetic on prices (`pricing.py`). In a file:

    [sources]    short name -> page and the month of its text
    [defaults]   fields of every model
    [families.X] fields of every model with family = "X"
    [models.X]   the model's own fields; they win over its family's, which win over the defaults

and `models_of = "other"` takes another provider's models without their prices.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pipeline.catalog.schema import (
    Cache,
    Dialect,
    Image,
    Limits,
    Model,
    Provider,
    Source,
    Tier,
    Window,
)
from pipeline.errors import JobError

__all__ = [
    "Cache",
    "Dialect",
    "Image",
    "Limits",
    "Model",
    "Provider",
    "Source",
    "Tier",
    "Window",
    "load",
    "parse",
    "provider_names",
]

# Beside this module, not through importlib.resources: its import alone costs more than reading a catalogue.
_FOLDER = Path(__file__).parent
_UNPRICED: dict[str, Any] = {
    "tiers": (),
    "cache": Cache(),
    "batch_share": None,
    "batch_cache_discount": False,
}


@cache
def provider_names() -> tuple[str, ...]:
    """The providers that have a catalogue, sorted by name."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def load(provider: str) -> Provider:
    """The catalogue of one provider, read once a process.

    Raises JobError for an unknown name, naming the nearest known one.
    """
    if provider not in provider_names():
        near = get_close_matches(provider, provider_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "'compatible' takes any server by model.base_url."
        known = ", ".join(provider_names())
        raise JobError(f"model.provider = {provider!r} is not known: expected one of {known}; {hint}")
    return parse(provider, (_FOLDER / f"{provider}.toml").read_bytes())


def parse(name: str, content: bytes) -> Provider:
    """A provider from the bytes of its file.

    Raises ValueError (tomllib's and msgspec's errors are ValueErrors) where the file is not of the schema.
    """
    raw = tomllib.loads(content.decode())
    raw["models"] = _merged(raw)
    raw |= {"name": name, "price_version": _version(raw["models"], content)}
    for section in ("defaults", "families"):
        raw.pop(section, None)
    other = raw.pop("models_of", None)
    provider = msgspec.convert(raw, Provider)
    if other is None:
        return provider
    base = load(other)
    unpriced = {key: msgspec.structs.replace(model, **_UNPRICED) for key, model in base.models.items()}
    return msgspec.structs.replace(provider, models=unpriced, sources=base.sources)


def _merged(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each model's fields under its family's under the defaults; raises ValueError for an unknown family."""
    models = {}
    for name, own in raw.get("models", {}).items():
        family = own.pop("family", None)
        if family is not None and family not in raw.get("families", {}):
            raise ValueError(f"models.{name}: family {family!r} is not in [families]")
        models[name] = {**raw.get("defaults", {}), **(raw["families"][family] if family else {}), **own}
    return models


def _version(models: Mapping[str, Mapping[str, Any]], content: bytes) -> str:
    """The newest day anything was checked, and which state of the file that is: 2026-11-22-1a2b3c4d."""
    days = [model["checked"] for model in models.values() if isinstance(model.get("checked"), date)]
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{max(days)}-{digest}" if days else digest
