"""Two processes with one account, judged by the provider's ledger; and what is said where limits cannot be shared."""

import signal
from pathlib import Path

import pytest

from pipeline.simulator.settings import Settings
from tests.support.sharers import Place, Sharer, account

RPM = 1_800
LIMITS = f"requests_per_minute = {RPM}"


@pytest.mark.parametrize(
    ("others_limits", "said"),
    [
        (LIMITS, "2 runs share the account's limits: this one has"),
        ("requests_per_minute = 600", "the smaller ones hold for both"),
    ],
    ids=["the same limits", "other limits"],
)
def test_two_processes_share_a_quota_with_hardly_a_refusal(
    tmp_path: Path, others_limits: str, said: str
) -> None:
    long, short = Sharer("long", rows=5_000), Sharer("short", rows=20)
    with account(Settings(requests_per_minute=RPM)) as provider:
        place, others = (Place(tmp_path, provider.base_url, limits) for limits in (LIMITS, others_limits))
        with place.running(long) as first:
            provider.wait(lambda: "long" in provider.ledger.keys)
            with others.running(short) as second:
                assert second["short"].end().summary["rows"] == 20
            first["long"].send(signal.SIGTERM)
            assert first["long"].end().code == 143
        by_status = provider.ledger.by_status
        assert set(by_status) <= {200, 429}
        # A process that the machine lets wait between its turn and the wire arrives in another second than its own.
        assert by_status.get(429, 0) <= 0.02 * provider.ledger.received
        assert provider.ledger.keys["short"].completed == 20
    assert said in place.log(short)
    state = tmp_path / ".local/state/promptmill"
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("", "set XDG_STATE_HOME or HOME to an absolute path"),
        ("rows.jsonl", "take [limits] account out"),
    ],
    ids=["there is none", "it is a file"],
)
def test_where_limits_cannot_be_shared_nothing_is_sent(tmp_path: Path, state: str, said: str) -> None:
    with account(Settings()) as provider:
        promptmill = Place(tmp_path, provider.base_url, LIMITS).made(Sharer("alone", rows=3))
        home = str(tmp_path / "alone" / state) if state else ""
        ended = promptmill("run", "job.toml", HOME=home, XDG_STATE_HOME=home)
        assert ended.code == 2
        assert "Nothing was sent" in ended.stderr
        assert said in ended.stderr
        assert provider.ledger.received == 0
