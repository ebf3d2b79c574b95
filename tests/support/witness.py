"""A provider that a killed run is judged by.

It counts by rows, tells of moments at which to kill, and knows when nothing of a dead client is left.
"""

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import NamedTuple

from aiohttp import web

from pipeline.simulator.latency import LONGEST_S, Latency
from pipeline.simulator.settings import Settings
from tests.support.provider import Provider, listening

_ROW = re.compile(rb"\brow (\d+)\b")
_HEALTH = b"GET /_health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
_PATIENCE_S = 60


class Event(StrEnum):
    """What happens at a provider."""

    RECEIVED = "a request was received"
    ALL_HELD = "as many answers are held as the run may have requests in flight"
    ANSWERED = "an answer was sent"
    UPLOAD_BEGUN = "an upload began"
    UPLOAD_ANSWERED = "an upload was answered"


class Count(NamedTuple):
    """What the ledger knows: requests received and billed by row, uploads by content."""

    received: Counter[int]
    billed: Counter[int]
    uploaded: Counter[str]

    def since(self, earlier: "Count") -> "Count":
        return Count(*(now - then for now, then in zip(self, earlier, strict=True)))


class Watch:
    """Becomes readable when an event has come `nth` times from now on."""

    def __init__(self, event: Event, nth: int) -> None:
        self.event = event
        self._left = nth
        self._handle = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._handle

    def tell(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.eventfd_write(self._handle, 1)

    def came(self) -> bool:
        return True

    def close(self) -> None:
        os.close(self._handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held(Latency):
    """A latency that has no end while answers are held."""

    holds: Callable[[], bool] = field(compare=False)

    def sample_s(self, random: Random) -> float:
        return LONGEST_S if self.holds() else Latency.sample_s(self, random)


class Witness(Provider):
    """A provider for prompts that say `row N` once. Every request it has read is billed, whoever still waits for the answer."""

    def __init__(self, settings: Settings, *, at_once: int) -> None:
        usual = settings.latency
        latency = _Held(
            low_s=usual.low_s,
            high_s=usual.high_s,
            sigma=usual.sigma,
            holds=lambda: self._asked > self._answers,
        )
        super().__init__(replace(settings, latency=latency), key=self._received)
        self._at_once = at_once
        self._asked = 0
        self._answers: float = float("inf")
        self._watches: list[Watch] = []
        self._watching = threading.Lock()
        self._chance = Random(0)
        self.uploading = 0

    def hold_answers_after(self, requests: int | None) -> None:
        """Answer so many more requests; of those that follow, each is billed and its answer never comes. None: answer all."""
        self._answers = float("inf") if requests is None else self._asked + requests

    def count(self) -> Count:
        """What has come in so far; exact when all is `quiet`."""
        tallies = self.ledger.keys.items()
        return Count(
            Counter({int(row): tally.received for row, tally in tallies}),
            Counter({int(row): tally.billed for row, tally in tallies}),
            self.ledger.files.digests + self.ledger.oss.digests,
        )

    @contextmanager
    def watched(self, event: Event, nth: int) -> Iterator[Watch]:
        watch = Watch(event, nth)
        with self._watching:
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with self._watching:
                self._watches.remove(watch)
            watch.close()

    def wait_quiet(self) -> None:
        """Wait until every request that a dead client has sent is in the ledger and over."""
        asyncio.run_coroutine_threadsafe(self._quiet(), self._loop).result(_PATIENCE_S)

    async def _quiet(self) -> None:
        # Connections are taken in the order in which they were made: when ours is answered, all before it are known.
        host, port = self.base_url.removeprefix("http://").partition("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_HEALTH)
        await reader.read()
        writer.close()
        # A connection is a task of the server until the end of what was sent over it is read and dealt with.
        while others := asyncio.all_tasks() - {self._serving, asyncio.current_task()}:
            await asyncio.wait(others)
        assert self.ledger.received == self.ledger.settled

    def _received(self, body: bytes) -> str:
        self._asked += 1
        self._note(Event.RECEIVED)
        if self._asked - self._answers == self._at_once:
            self._note(Event.ALL_HELD)
        (row,) = _ROW.findall(body)
        return str(row, "ascii")

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return await super()._handle(request)
        if not request.path.endswith(("/files", "/_oss")):
            response = await super()._handle(request)
            self._note(Event.ANSWERED)
            return response
        # A storage takes its time before it has a file, and before it says so.
        before_s, after_s = self._chance.uniform(0, 0.02), self._chance.uniform(0, 0.02)
        self.uploading += 1
        self._note(Event.UPLOAD_BEGUN)
        try:
            await asyncio.sleep(before_s)
            response = await super()._handle(request)
            await asyncio.sleep(after_s)
        finally:
            self.uploading -= 1
        self._note(Event.UPLOAD_ANSWERED)
        return response

    def _note(self, event: Event) -> None:
        with self._watching:
            for watch in self._watches:
                if watch.event is event:
                    watch.tell()


@contextmanager
def witnessing(settings: Settings, *, at_once: int) -> Iterator[Witness]:
    """A witness that listens inside the block, for runs with so many requests in flight."""
    with listening(Witness(settings, at_once=at_once)) as witness:
        yield witness
