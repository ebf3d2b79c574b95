"""How a reply goes over the connection: whole, in events, dripping, cut, reset, or never.

What a reply says was decided before; only this module writes to connections.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web

from pipeline.simulator.faults import FaultKind
from pipeline.simulator.ledger import Entry

JSON = "application/json"
EVENTS = "text/event-stream"
DRIPS = 8
# With linger on and 0 seconds, closing sends RST instead of FIN.
_LINGER_RESET = struct.pack("ii", 1, 0)
_UNSTREAMED = frozenset({FaultKind.CUT, FaultKind.SLOW})


@dataclass(slots=True)
class Reply:
    """What goes back: one body, or the frames of a stream.

    `completed`: it holds a whole completion. `delivery` is the fault that shapes the sending. It waits
    `wait_s` before its first byte; the frames of a stream are spread over `stream_s`.
    """

    status: int
    body: bytes = b""
    frames: list[bytes] | None = None
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    completed: bool = False
    delivery: FaultKind | None = None
    wait_s: float = 0.0
    stream_s: float = 0.0


async def deliver(request: web.BaseRequest, reply: Reply, entry: Entry, slow_s: float) -> web.StreamResponse:
    """Send the reply as its delivery says, and enter what became of it; `slow_s` is how long a slow one drips."""
    transport = request.transport
    if reply.wait_s:
        await asyncio.sleep(reply.wait_s)
    if reply.delivery is FaultKind.STALL:
        await asyncio.Event().wait()  # until the client goes, which cancels this
    if reply.delivery is FaultKind.RESET and transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        transport.abort()
    if transport is None or transport.is_closing():
        return web.Response()  # goes nowhere: the connection is gone before the answer
    if reply.frames is not None or reply.delivery in _UNSTREAMED:
        response = await _in_parts(request, reply, entry, slow_s, transport)
        if reply.delivery is FaultKind.CUT:
            return response
    else:
        response = web.Response(
            body=reply.body, status=reply.status, headers=reply.headers, content_type=reply.content_type
        )
        await response.prepare(request)
        entry.status = reply.status
    await response.write_eof()
    # All of it is with the kernel, and the client was still there: more cannot be known on this side.
    entry.answered = not transport.is_closing() and transport.get_write_buffer_size() == 0
    entry.completed = entry.answered and reply.completed
    return response


async def _in_parts(
    request: web.BaseRequest, reply: Reply, entry: Entry, slow_s: float, transport: asyncio.Transport
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_type = reply.content_type
    whole = b"".join(reply.frames) if reply.frames is not None else reply.body
    if reply.frames is None:
        response.content_length = len(whole)
    await response.prepare(request)
    entry.status = reply.status
    if reply.delivery is FaultKind.CUT:
        await response.write(whole[: len(whole) // 2])
        transport.close()
    elif reply.delivery is FaultKind.SLOW:
        await _spread(response, _divided(whole, DRIPS), slow_s * (DRIPS - 1) / DRIPS)
    elif reply.stream_s:
        await _spread(response, reply.frames or [], reply.stream_s)
    else:
        await response.write(whole)
    if reply.delivery is FaultKind.STALL_STREAM:
        await asyncio.Event().wait()  # until the client goes
    return response


async def _spread(response: web.StreamResponse, parts: list[bytes], seconds: float) -> None:
    pause_s = seconds / max(1, len(parts) - 1)
    for i, part in enumerate(parts):
        if i:
            await asyncio.sleep(pause_s)
        await response.write(part)


def _divided(whole: bytes, parts: int) -> list[bytes]:
    step = max(1, -(-len(whole) // parts))
    return [whole[start : start + step] for start in range(0, len(whole), step)]
