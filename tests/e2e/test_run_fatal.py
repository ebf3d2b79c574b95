"""What no row can escape: the run stops within what is in flight, says why, and the same command goes on once it is mended.

The judge is the simulator's ledger: how much was asked before the run stood still, and that nothing is paid for twice.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from pipeline.simulator.server import running
from pipeline.simulator.settings import Settings
from tests.e2e.conftest import Workplace
from tests.support.fault_proxy import Fault, Provider, faulty_provider, in_thread
from tests.support.servers import refused_port
from tests.support.wire_faults import FAULTS

ROWS = 300
AT_ONCE = 16
FIRST_AT_ONCE = 4  # until the first answer
REFUSALS = {
    "InvalidApiKey": "invalid_api_key: Incorrect API key provided.",
    "Arrearage": "Arrearage: Access denied, please make sure your account is in good standing.",
    "AllocationQuota.FreeTierOnly": "AllocationQuota.FreeTierOnly: The free tier of the model has been exhausted.",
    "ModelNotFound": "model_not_found: Model can not be found.",
}


@dataclass
class Trouble:
    """A plan of the proxy: the fault that all requests meet after the first so many, until it is mended."""

    fault: Fault
    after: int = 0
    begin: Callable[[], None] = lambda: None
    mended: bool = False
    asked: int = field(default=0, init=False)

    def __call__(self, start: bytes, nth: int) -> Fault | None:
        if self.mended:
            return None
        self.asked += 1
        if self.asked == self.after + 1:
            self.begin()
        return self.fault if self.asked > self.after else None


@contextmanager
def provider(trouble: Trouble, tls: ssl.SSLContext | None = None) -> Iterator[Provider]:
    with in_thread(faulty_provider(trouble, tls=tls)) as found:
        yield found


def point_at(place: Workplace, base_url: str, *more: str) -> None:
    place.write_rows(ROWS)
    place.point_at(base_url, at_once=AT_ONCE)
    if more:
        with (place.folder / "job.toml").open("a") as job:
            job.write("\n".join(more) + "\n")


def finish(place: Workplace, found: Provider) -> int:
    """Go on with the same command, now that it is mended; how many requests may have been paid in vain."""
    ended = place.run()
    assert (ended.code, ended.summary["done"], ended.summary["status"]["ok"]) == (0, ROWS, ROWS)
    assert (found.simulator.ledger.completed, found.simulator.ledger.repeated) == (ROWS, 0)
    maybe_paid: int = ended.summary["maybe_paid"]
    return maybe_paid


@pytest.mark.parametrize("after", [0, 100])
@pytest.mark.parametrize("demand", REFUSALS)
def test_a_refusal_that_concerns_the_account_stops_the_run_within_what_is_in_flight(
    place: Workplace, demand: str, after: int
) -> None:
    trouble = Trouble(Fault(demand=demand), after=after)
    with provider(trouble) as found:
        point_at(place, found.proxy.base_url)
        stopped = place.run()
        asked = found.simulator.ledger.received
        assert (stopped.code, stopped.summary["done"]) == (4, after)
        assert f"the provider refuses: {REFUSALS[demand]}" in stopped.stderr
        assert after < asked <= after + (AT_ONCE if after else FIRST_AT_ONCE)
        trouble.mended = True
        assert finish(place, found) == 0
        assert found.simulator.ledger.received == asked + ROWS - after


@dataclass
class Certificates:
    """A server's certificate, by the authority whose file this is, until it is another's."""

    tls: ssl.SSLContext
    file: Path
    _own: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self._own.cert_pem.write_to_path(self.file)
        self.mend()

    def spoil(self) -> None:
        trustme.CA().issue_cert("localhost").configure_cert(self.tls)

    def mend(self) -> None:
        self._own.issue_cert("localhost").configure_cert(self.tls)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), tmp_path / "ca.pem")


def test_a_certificate_that_proves_nothing_stops_the_run_before_anything_is_sent(
    place: Workplace, certificates: Certificates
) -> None:
    with provider(Trouble(Fault(), mended=True), certificates.tls) as found:
        point_at(place, found.proxy.base_url)
        stopped = place.run()
        assert (stopped.code, stopped.summary["done"]) == (4, 0)
        where = found.proxy.base_url.split("/")[2]
        assert (
            f"the provider refuses: certificate_untrusted: The certificate of {where} is not"
            in stopped.stderr
        )
        assert "name your own authority's file as ca_file" in stopped.stderr
        assert found.simulator.ledger.received == 0
        assert found.proxy.connections <= FIRST_AT_ONCE
        with (place.folder / "job.toml").open("a") as job:
            job.write('[transport]\nca_file = "ca.pem"\n')
        assert finish(place, found) == 0


def test_a_certificate_that_goes_bad_stops_the_run_within_what_is_in_flight(
    place: Workplace, certificates: Certificates
) -> None:
    # From then on each connection ends with its answer, so that new ones are needed.
    trouble = Trouble(FAULTS["connection closed behind the answer"], 100, certificates.spoil)
    with provider(trouble, certificates.tls) as found:
        point_at(place, found.proxy.base_url, "[transport]", 'ca_file = "ca.pem"')
        stopped = place.run()
        assert stopped.code == 4
        assert "certificate_untrusted" in stopped.stderr
        asked = found.simulator.ledger.received
        assert stopped.summary["done"] == found.simulator.ledger.completed == asked
        assert 100 <= asked <= 100 + 2 * AT_ONCE
        trouble.mended = True
        certificates.mend()
        # A request may have been written to a connection that was being closed.
        assert finish(place, found) <= AT_ONCE


def test_a_server_that_is_not_there_stops_the_run_and_the_same_command_finds_it_later(
    place: Workplace,
) -> None:
    port = refused_port()
    point_at(place, f"http://127.0.0.1:{port}/compatible-mode/v1", "[retry]", "max_attempts = 1")
    stopped = place.run()
    assert (stopped.code, stopped.summary["done"], stopped.summary["maybe_paid"]) == (4, 0, 0)
    assert f"the first 20 rows all failed alike: connect_refused: 127.0.0.1:{port} refused" in stopped.stderr
    assert stopped.summary["sent"] <= 20 + FIRST_AT_ONCE
    with in_thread(running(Settings(port=port))) as simulator:
        ended = place.run()
        assert (ended.code, ended.summary["done"]) == (0, ROWS)
        assert (simulator.ledger.completed, simulator.ledger.repeated) == (ROWS, 0)


def test_a_host_name_that_does_not_resolve_stops_the_run_with_what_to_look_at(place: Workplace) -> None:
    host = ".".join(["a" * 60] * 5)  # too long to be asked for, so that no query leaves this machine
    point_at(place, f"http://{host}/v1", "[retry]", "max_attempts = 1")
    stopped = place.run()
    assert (stopped.code, stopped.summary["done"], stopped.summary["maybe_paid"]) == (4, 0, 0)
    assert "dns: The host name of" in stopped.stderr
    assert "was not found: check base_url and the network" in stopped.stderr
