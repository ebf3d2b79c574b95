"""The promises of the README as a table, and how their checks are carried out: some at a time, each in a folder of its own."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.errors import PromptmillError, SetupError
from pipeline.selftest import budget, crashes, faults, memory, order, pace, rows, secrecy
from pipeline.selftest.place import Place, child_environment, together
from pipeline.selftest.verdict import Verdict

# Each is a run and a simulator: more at once would take the memory of a small machine, and gain nothing on two cores.
_AT_ONCE = 3
_PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise; `check` is None where this version does not make it, and `absent` says why."""

    number: int
    says: str
    check: Callable[[Place], Awaitable[Verdict]] | None = None
    absent: str = ""


PROMISES: tuple[Promise, ...] = (
    Promise(number=1, says="rows out = rows in", check=rows.check),
    Promise(number=2, says="kill -9 loses nothing", check=crashes.check),
    Promise(number=3, says="the limits hold", check=pace.check),
    Promise(number=4, says="the budget holds", check=budget.check),
    Promise(number=5, says="memory does not grow", check=memory.check),
    Promise(number=6, says="failures are classified", check=faults.check),
    Promise(number=7, says="no secret gets out", check=secrecy.check),
    Promise(number=8, says="same parts in any order", check=order.check),
)


class Mark(StrEnum):
    """How a promise came out."""

    OK = "ok"
    FAILED = "FAILED"
    ABSENT = "-"


class Told(NamedTuple):
    """A promise and what became of it."""

    promise: Promise
    mark: Mark
    verdict: Verdict
    elapsed_s: float


class Watcher(Protocol):
    """Who hears how it goes."""

    def running(self, numbers: Sequence[int]) -> None:
        """These promises are being tried now."""

    def told(self, told: Told) -> None:
        """One is known."""


def working_folder(under: Path) -> Path:
    """Make a new folder to work in; `forget` removes it. Raises SetupError where none can be made."""
    try:
        return Path(tempfile.mkdtemp(prefix="promptmill-selftest-", dir=under)).absolute()
    except OSError as error:
        raise SetupError(
            f"no folder can be made in {under}: {error.strerror}. Name another one with --folder"
        ) from error


def forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


async def try_promises(
    promises: Sequence[Promise], folder: Path, env: Mapping[str, str], watcher: Watcher
) -> list[Told]:
    """Try promises in a folder, each in one of its own, with the user's environment `env`; return what became of each."""
    key = f"sk-selftest-{secrets.token_hex(16)}"
    env = child_environment(env, key=key, home=folder / "home")
    lanes = asyncio.Semaphore(_AT_ONCE)
    under_way: set[int] = set()

    async def one(promise: Promise) -> Told:
        async with lanes:
            under_way.add(promise.number)
            watcher.running(sorted(under_way))
            told = await _try(promise, Place(folder / f"promise-{promise.number}", env, key))
            under_way.discard(promise.number)
            watcher.told(told)
            watcher.running(sorted(under_way))
            return told

    return await together(*map(one, promises))


async def _try(promise: Promise, place: Place) -> Told:
    if promise.check is None:
        return Told(promise, Mark.ABSENT, Verdict(promise.absent), 0.0)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            place.folder.mkdir()
            verdict = await promise.check(place)
    except TimeoutError:
        verdict = Verdict("no verdict", (f"it had not come to its end after {_PATIENCE_S:g} s",))
    except (PromptmillError, OSError) as error:
        verdict = Verdict("no verdict", (str(error),))
    return Told(promise, Mark.OK if verdict.holds else Mark.FAILED, verdict, loop.time() - began_s)
