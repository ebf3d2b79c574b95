"""A run's part in the limits of its account: a beat each second tells the others what it wants, and the gate what it has."""

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.common_pace import CommonPace, pace_name
from pipeline.errors import SetupError
from pipeline.fair_shares import WHOLE, Shares
from pipeline.gate import Admitted, Common
from pipeline.leases import BEAT_S, LEASES_NAME, Lease, Leases, Party, Rates, unusable
from pipeline.plan import Plan

# Times what is in flight; of rates the leases have something to spare.
IN_FLIGHT_SPARE = Shares(1.0, 1.0, 1.25)
LEAST = 1e-6  # of the whole: with less a run does not begin
TRACE = 0.004  # of the whole is wanted at least
LOOKS, FIRST_LOOKS = 10, 3  # seconds that are looked back at, and those at the start, when all is wanted
# Of the time: where a run's line is held back so long by what it has of a kind, it wants more of it. Where it only waits for its
# turn, the whole of all runs is used up: it wants more where it comes to about its part by weight.
BINDS, ITS_PART = 0.25, 0.9
COMING_S = 0.25  # between the beats of a run that has yet to get its part
TOLD = 0.1  # of a share: a change of less is not told
log = logging.getLogger("promptmill")


class SharedGate(Protocol):
    """What sharing needs of a gate (`limits.LocalGate`)."""

    @property
    def in_flight(self) -> int: ...
    @property
    def cooling_until_s(self) -> float | None: ...
    @property
    def admitted(self) -> Admitted: ...
    @property
    def held_back_s(self) -> Shares: ...
    @property
    def turns_s(self) -> Shares: ...
    @property
    def shares(self) -> Shares: ...
    def set_share(self, shares: Shares) -> None: ...
    def cool_until(self, until_s: float) -> None: ...
    def join(self, common: Common) -> None: ...


class _Look(NamedTuple):
    at_s: float
    admitted: Admitted
    in_flight: int
    held_back_s: Shares
    turns_s: Shares


class Appetite:
    """What a run would use of the whole, from what it used in the last ten seconds. `most` may be in flight in all."""

    def __init__(self, gate: SharedGate, most: int) -> None:
        self._gate = gate
        self._most = most
        self._looks: deque[_Look] = deque(maxlen=LOOKS + 1)
        self._wants = WHOLE

    def look(self, now_s: float, rates: Rates, part: float) -> Shares:
        """Once a beat; `rates` are the whole's, `part` is this run's by weight.

        While nothing may be sent it tells nothing: what was wanted before holds.
        """
        gate = self._gate
        if gate.cooling_until_s is not None:
            self._looks.clear()
        else:
            self._looks.append(_Look(now_s, gate.admitted, gate.in_flight, gate.held_back_s, gate.turns_s))
            if len(self._looks) > FIRST_LOOKS:
                self._wants = self._wanted(self._used(rates), part)
        return self._wants

    def _used(self, rates: Rates) -> list[float | None]:
        """Of the whole, over the seconds looked back at; None where nobody knows the whole."""
        first, last = self._looks[0], self._looks[-1]
        minutes = (last.at_s - first.at_s) / 60
        used = [
            None if rate is None else (now - then) / minutes / rate
            for now, then, rate in zip(last.admitted, first.admitted, rates, strict=True)
        ]
        return [*used, max(look.in_flight for look in self._looks) / self._most]

    def _wanted(self, used: Sequence[float | None], part: float) -> Shares:
        """All of what holds the run back, and of the rest as much as it uses.

        Of a rate that is searched for, always all: shares only scale what is found, and where others leave some, more is found.
        """
        first, last = self._looks[0], self._looks[-1]
        for_s = BINDS * (last.at_s - first.at_s)
        wants = []
        for kind, amount in enumerate(used):
            own = last.held_back_s[kind] - first.held_back_s[kind] >= for_s
            turn = last.turns_s[kind] - first.turns_s[kind] >= for_s
            if amount is None or own or (turn and amount >= ITS_PART * part):
                wants.append(1.0)
            else:
                wants.append(max(amount * IN_FLIGHT_SPARE[kind], TRACE))
        return Shares(*wants)


class Sharing:
    """The beats of one run. `note` is told of new shares, and of limits that differ."""

    def __init__(self, gate: SharedGate, party: Party, state: Path, note: Callable[[str], None]) -> None:
        """Open the files of the state folder, or make them. Raises SetupError where they cannot be used."""
        self._gate = gate
        self._party = party
        self._state = state
        self._note = note
        self._appetite = Appetite(gate, party.most)
        self._leases = Leases(state / LEASES_NAME, party)
        try:
            self._common = CommonPace(state / pace_name(party.pool), party.rates)
        except OSError as error:
            self._leases.close()
            raise unusable(state, error) from error
        self._part = 1.0
        self._said: Shares | None = None
        self._said_others: Rates | None = None
        self._troubled = False
        # Its own: a beat must not wait behind parts that are being written.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leases")

    async def begin(self) -> None:
        """Take a share, and come back once there is one to begin with. Raises SetupError where the files cannot be used."""
        try:
            while not await self._beat():  # noqa: ASYNC110  (it is other processes that are waited for)
                await asyncio.sleep(COMING_S)
        except (OSError, sqlite3.Error) as error:
            raise unusable(self._state, error) from error
        self._gate.join(self._common)

    async def keep(self) -> None:
        """Beat until cancelled. Where the file fails meanwhile, this run keeps what it has: the common pace still holds."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat()
                self._troubled = False
            except (sqlite3.Error, OSError) as error:
                if not self._troubled:
                    log.warning("the account's limits cannot be divided anew at present: %s", error)
                self._troubled = True

    async def end(self) -> None:
        """Give the share back."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._leases.close)
        self._thread.shutdown()
        self._common.close()

    async def _beat(self) -> bool:
        """Say what is wanted and take what may be had; whether it is enough to send anything."""
        loop = asyncio.get_running_loop()
        wants = self._appetite.look(loop.time(), self._common.rates, self._part)
        lease = await loop.run_in_executor(self._thread, self._leases.beat, wants, loop.time())
        self._common.rates, self._part = lease.rates, lease.part
        self._common.look_at_file()
        if (cooling_until_s := self._common.look(loop.time())) > loop.time():
            self._gate.cool_until(cooling_until_s)
        if (trouble := self._common.trouble) is not None:
            self._common.trouble = None
            raise trouble
        shares = self._of_own(lease)
        self._say(lease, shares)
        if shares != self._gate.shares:
            self._gate.set_share(Shares(*(max(share, LEAST) for share in shares)))
        return min(shares) >= LEAST

    def _of_own(self, lease: Lease) -> Shares:
        """The shares as parts of the limits that this run's own job names, which may be larger than another's."""
        ratios = [
            1.0 if own is None or least is None else least / own
            for own, least in zip(self._party.rates, lease.rates, strict=True)
        ]
        return Shares(*(share * ratio for share, ratio in zip(lease.shares, [*ratios, 1.0], strict=True)))

    def _say(self, lease: Lease, shares: Shares) -> None:
        if lease.others is not None and lease.others != self._said_others:
            self._note(
                f"another run of this account names {lease.others}, this one {self._party.rates}: "
                "the smaller ones hold for both. Name the same in both jobs"
            )
        self._said_others = lease.others
        said = self._said
        if said is None or any(abs(now - then) > TOLD * then for now, then in zip(shares, said, strict=True)):
            if said is not None or lease.members > 1:
                sharers = f"{lease.members} runs share" if lease.members > 1 else "no other run shares"
                self._note(
                    f"{sharers} the account's limits: this one has {shares.requests:.0%} of the requests, "
                    f"{shares.tokens:.0%} of the tokens and {shares.in_flight:.0%} of those in flight"
                )
            self._said = shares


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
    # A provider's limits are those of an account and a model, and each of its regions counts by itself.
    party = Party(
        pool=f"{section.account} {target.model_name} {target.identity}",
        run=run_id,
        weight=section.priority,
        rates=Rates(target.requests_per_minute, target.tokens_per_minute),
        most=target.max_concurrency,
    )
    return sharing(gate, party, state, note)


@contextlib.asynccontextmanager
async def sharing(
    gate: SharedGate, party: Party, state: Path, note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Share the limits of a pool while the block runs; it begins once this run has a share.

    Raises SetupError where the files of the `state` folder cannot be used.
    """
    shared = Sharing(gate, party, state, note)
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
