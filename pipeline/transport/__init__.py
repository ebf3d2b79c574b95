"""Layer 3: one attempt over HTTP. `Transport.send` takes a Request and gives a Response or a Failure.

`seam` holds what both cores share, `fast_core` the default for chat calls, `httpx_core` any httpx
transport.
"""

from typing import Literal, assert_never

from pipeline.transport.fast_core import FastTransport
from pipeline.transport.httpx_core import HttpxTransport
from pipeline.transport.open_files import allow_connections
from pipeline.transport.seam import KEPT_HEADERS, Endpoint, Sink, Transport, tls_context

__all__ = [
    "KEPT_HEADERS",
    "Core",
    "Endpoint",
    "FastTransport",
    "HttpxTransport",
    "Sink",
    "Transport",
    "open_transport",
    "tls_context",
]

Core = Literal["fast", "httpx"]


def open_transport(core: Core, endpoint: Endpoint) -> Transport:
    """Opens the transport of a run inside its loop; close it there with `aclose`.

    Raises SetupError for a `ca_file` that cannot be used, and where the system bounds open files to fewer than the connections.
    """
    allow_connections(endpoint.max_connections)
    match core:
        case "fast":
            return FastTransport(endpoint)
        case "httpx":
            return HttpxTransport(endpoint)
        case _:
            assert_never(core)
