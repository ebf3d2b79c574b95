"""A request as a wire format reads it: one form for both dialects.

Messages are OpenAI-style, whatever the dialect; parameters stand under their compatible names. Nothing is
checked here.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Dialect(StrEnum):
    """The provider's two wire formats."""

    COMPATIBLE = "compatible"
    NATIVE = "native"


@dataclass(slots=True)
class Call:
    """What was asked, before any check but that of its outer shape.

    `multimodal_path`: it came on the native path for models that see. `incremental` and `result_format` are
    the native protocol's own, `include_usage` is the compatible mode's.
    """

    dialect: Dialect
    model: str
    messages: Any
    params: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    multimodal_path: bool = False
    incremental: bool | None = None
    result_format: str = "message"
