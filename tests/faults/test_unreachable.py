"""Servers that cannot be reached or must not be trusted: what becomes of the rows, and of the run."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from pipeline.records import Failure, FailureKind, Outcome, Request, Response, Status
from pipeline.transport import Sink, Transport
from tests.support.clients import CLIENTS, Client
from tests.support.rig import Ran, Rig, answer
from tests.support.servers import answering, refused_port, serve, silent
from tests.support.wire_faults import respond

ANSWER = respond(answer().body)
NO_SUCH_HOST = ".".join(["a" * 60] * 5)  # too long to be asked for, so that no query leaves this machine


@pytest.fixture(params=[client for client in CLIENTS if "uvloop" in str(client)], ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    one: Client = request.param
    return one


@dataclass
class Mended:
    """A transport whose trouble goes away when an attempt has failed."""

    transport: Transport
    mend: Callable[[], Awaitable[Any]]
    failed: int = 0

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        reply = await self.transport.send(request, sink)
        if isinstance(reply, Failure):
            self.failed += 1
            if self.failed == 1:
                await self.mend()
        return reply

    async def aclose(self) -> None:
        await self.transport.aclose()


def settled(rig: Rig) -> list[Outcome]:
    """The outcomes kept in the journal, which are all where the only part is shorter than a full one."""
    folder = rig.open()
    try:
        return list(folder.journal.outcomes(0, rig.rows).values())
    finally:
        folder.release()


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("nobody listens", FailureKind.TRANSPORT, "connect_refused"),
        ("no such host", FailureKind.TRANSPORT, "dns"),
        ("a handshake without an answer", FailureKind.TIMEOUT, "connect_timeout"),
    ],
)
def test_a_server_that_cannot_be_reached_costs_attempts_and_no_money(
    tmp_path: Path, client: Client, fault: str, kind: FailureKind, code: str
) -> None:
    rig = Rig(folder=tmp_path, rows=3, max_attempts=2)

    async def main() -> None:
        async with serve(silent) as server:
            url = {
                "nobody listens": f"http://127.0.0.1:{refused_port()}/v1",
                "no such host": f"http://{NO_SUCH_HOST}/v1",
                "a handshake without an answer": f"https://127.0.0.1:{server.port}/v1",
            }[fault]
            async with client.open(url, connect_timeout_s=0.2) as transport:
                await rig.run(transport)

    client.run(main())
    for outcome in settled(rig):
        assert outcome.failure is not None
        assert (outcome.status, outcome.failure.kind, outcome.failure.code) == (Status.FAILED, kind, code)
        assert (outcome.attempts, outcome.maybe_paid) == (2, 0)


def test_a_server_that_comes_back_answers_the_rows_that_were_refused(tmp_path: Path, client: Client) -> None:
    rig = Rig(folder=tmp_path, rows=3, max_attempts=2)

    async def main() -> None:
        port = refused_port()
        async with AsyncExitStack() as servers, client.open(f"http://127.0.0.1:{port}/v1") as transport:

            async def mend() -> None:
                await servers.enter_async_context(serve(answering(ANSWER), port=port))

            await rig.run(Mended(transport, mend))

    client.run(main())
    outcomes = settled(rig)
    assert {outcome.status for outcome in outcomes} == {Status.OK}
    assert max(outcome.attempts for outcome in outcomes) == 2
    assert sum(outcome.maybe_paid for outcome in outcomes) == 0


def test_a_certificate_that_proves_nothing_ends_the_run_unsent_and_the_next_one_goes_on(
    tmp_path: Path, client: Client
) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    rig = Rig(folder=tmp_path, rows=40, workers=16, rows_per_part=50)
    ran: list[Ran] = []

    async def main() -> None:
        async with serve(answering(ANSWER), tls=tls) as server:
            async with client.open(server.url, max_connections=16) as transport:
                ran.append(await rig.run(transport))
            assert (server.connections <= 4, server.requests) == (True, [])
            async with client.open(server.url, max_connections=16, ca_file=ca_file) as transport:
                ran.append(await rig.run(transport))
            assert len(server.requests) == 40

    client.run(main())
    stopped, ended = (one.runner.stopped for one in ran)
    assert stopped is not None
    assert stopped.exit_code == 4
    assert "is not trusted" in stopped.reason
    assert "ca_file" in stopped.reason
    assert ended is None
    assert [(outcome.status, outcome.maybe_paid) for outcome in settled(rig)] == [(Status.OK, 0)] * 40
