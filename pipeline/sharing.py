"""A run's part in the limits of its account: a beat each second tells the others what it wants, and the gate what it has."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pipeline.errors import SetupError
from pipeline.leases import BEAT_S, LEASES_NAME, Lease, Leases, machine_s
from pipeline.limits import Admitted
from pipeline.plan import Plan

MARGIN = 1.25  # times what it used of late: room to grow until the next beat
LEAST_WANTED = 0.02
FIRST_TRIES = 5  # beats until the others have let go of what a new run is to have
UNHEARD_S = 3.0  # without a beat others take this run's share; before that it keeps to little of it
log = logging.getLogger("promptmill")


class SharedGate(Protocol):
    """What sharing needs of a gate (`limits.LocalGate`)."""

    @property
    def waiting(self) -> int: ...
    @property
    def cooling_until_s(self) -> float | None: ...
    @property
    def admitted(self) -> Admitted: ...
    def set_share(self, share: float) -> None: ...
    def cool_until(self, until_s: float) -> None: ...


class Appetite:
    """What a run would use of the whole account, from what it used since the last look."""

    def __init__(self, gate: SharedGate, requests_per_s: float | None, tokens_per_s: float | None) -> None:
        self._gate = gate
        self._per_s = requests_per_s, tokens_per_s
        self._before = gate.admitted
        self._before_s: float | None = None

    def look(self, now_s: float) -> float:
        """From 0 to 1. Who has a line before its gate wants all it can get."""
        before, since_s = self._before, self._before_s
        self._before, self._before_s = self._gate.admitted, now_s
        if since_s is None or now_s <= since_s or self._gate.waiting:
            return 1.0
        used = [
            (now - then) / (now_s - since_s) / per_s
            for now, then, per_s in zip(self._before, before, self._per_s, strict=True)
            if per_s is not None
        ]
        return min(max(MARGIN * max(used, default=1.0), LEAST_WANTED), 1.0)


class Sharing:
    """The beats of one run. `note` is told of each new share and of limits that differ."""

    def __init__(
        self, gate: SharedGate, leases: Leases, appetite: Appetite, note: Callable[[str], None]
    ) -> None:
        self._gate = gate
        self._leases = leases
        self._appetite = appetite
        self._note = note
        self._said = ""
        # Its own: a beat must not wait behind parts that are being written.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leases")

    async def begin(self) -> None:
        """Wait until the others have let go of this run's share, some beats at most. Raises sqlite3.Error."""
        lease = await self._beat()
        for _ in range(FIRST_TRIES):
            if lease.share >= 0.5 / lease.members:
                break
            await asyncio.sleep(BEAT_S)
            lease = await self._beat()
        if lease.limits is not None:
            self._note(
                f"another run of this account names other limits ({lease.limits}): each keeps to its share of its own"
            )
        if lease.share <= 0:
            self._gate.set_share(LEAST_WANTED)

    async def keep(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat()
                heard_s = loop.time()
            except sqlite3.Error as error:
                if loop.time() - heard_s > UNHEARD_S:
                    log.warning("the account's limits cannot be shared at present: %s", error)
                    self._gate.set_share(LEAST_WANTED)

    async def end(self) -> None:
        """Give the share back."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._leases.close)
        self._thread.shutdown()

    async def _beat(self) -> Lease:
        loop, cooling_s = asyncio.get_running_loop(), self._gate.cooling_until_s
        pause_until_s = 0.0 if cooling_s is None else machine_s() + cooling_s - loop.time()
        wants = self._appetite.look(loop.time())
        lease = await loop.run_in_executor(self._thread, self._leases.beat, wants, pause_until_s)
        if lease.share > 0:
            self._gate.set_share(lease.share)
        if (left_s := lease.pause_until_s - machine_s()) > 0:
            self._gate.cool_until(loop.time() + left_s)
        said = f"{lease.share:.0%} of the account's limits, which {lease.members} runs share"
        if said != self._said and (lease.members > 1 or self._said):
            self._note(said)
        self._said = said
        return lease


def shared_limits(
    plan: Plan, gate: SharedGate, run_id: str, note: Callable[[str], None]
) -> contextlib.AbstractAsyncContextManager[None]:
    """The limits of a job shared with other runs of its account, where it names one. Raises SetupError where they cannot be."""
    section, target, state = plan.job.file.limits, plan.target, plan.job.shared_state
    if section.account is None:
        return contextlib.nullcontext()
    if state is None:
        raise SetupError(
            "[limits] account is kept in the user's state folder, which nothing names: set XDG_STATE_HOME or HOME "
            "to an absolute path. Nothing was sent"
        )
    rates = {"requests": target.requests_per_minute, "tokens": target.tokens_per_minute}
    said = ", ".join(
        f"{'any number of' if rate is None else f'{rate:,.0f}'} {what} a minute"
        for what, rate in rates.items()
    )
    leases = Leases(state / LEASES_NAME, section.account, run_id, weight=section.priority, limits=said)
    return sharing(
        gate, leases, Appetite(gate, *(None if rate is None else rate / 60 for rate in rates.values())), note
    )


@contextlib.asynccontextmanager
async def sharing(
    gate: SharedGate, leases: Leases, appetite: Appetite, note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Share the account's limits while the block runs; it begins once this run has its share."""
    shared = Sharing(gate, leases, appetite, note)
    try:
        await shared.begin()
        beating = asyncio.create_task(shared.keep())
        try:
            yield
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
    finally:
        await shared.end()
