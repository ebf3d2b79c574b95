"""The seam to the wire formats: one object a run, for everything that depends on how its model is spoken to."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, Protocol

from pipeline.catalog import Model
from pipeline.failures import Dialect
from pipeline.protocol import compatible, native
from pipeline.protocol.assemble import Assembler, Form
from pipeline.records import Completion, Failure, Response

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class WireFormat(Protocol):
    """How requests and answers of one run look; pure, and the same for every row.

    `path` stands under the format's base URL; `stream_headers` go with every request whose answer is streamed.
    """

    @property
    def path(self) -> str: ...

    @property
    def stream_headers(self) -> Mapping[str, str]: ...

    def encode(
        self, model: str, messages: list[dict[str, Any]], params: dict[str, Any], stream: bool = False
    ) -> bytes:
        """The body of a request. Raises `compatible.EncodeError` for what the format cannot hold."""
        ...

    def decode(self, response: Response, dialect: Dialect, now: datetime) -> Completion | Failure:
        """What a whole response means. Never raises."""
        ...

    def assembler(self, params: Mapping[str, Any]) -> Assembler:
        """What reads the stream that answers a request with these params."""
        ...


class Compatible:
    """The OpenAI-compatible format; see `compatible.py`."""

    path = "/chat/completions"
    stream_headers = _NO_HEADERS
    encode = staticmethod(compatible.encode)
    decode = staticmethod(compatible.decode)
    _form = Form(compatible.choices, compatible.usage_of, compatible.decode)

    def assembler(self, params: Mapping[str, Any]) -> Assembler:
        return Assembler(self._form)


class Native:
    """DashScope's native format; see `native.py`."""

    stream_headers: Mapping[str, str] = MappingProxyType(native.STREAM_HEADERS)
    decode = staticmethod(native.decode)
    _form = Form(native.choices, native.usage_of, native.decode, native.whole_usage)

    def __init__(self, *, multimodal: bool) -> None:
        self._multimodal = multimodal
        self.path = native.MULTIMODAL_PATH if multimodal else native.TEXT_PATH

    def encode(
        self, model: str, messages: list[dict[str, Any]], params: dict[str, Any], stream: bool = False
    ) -> bytes:
        return native.encode(model, messages, params, stream, multimodal=self._multimodal)

    def assembler(self, params: Mapping[str, Any]) -> Assembler:
        return Assembler(self._form, cumulative=params.get("incremental_output") is False)


def wire_format(
    protocol: Literal["compatible", "native"], name: str, model: Model | None, *, has_media: bool
) -> WireFormat:
    """The format of a run: the job's protocol, its model with the catalogue's entry, and whether its rows carry media."""
    if protocol == "compatible":
        return Compatible()
    return Native(multimodal=native.is_multimodal(name, model, has_media=has_media))
