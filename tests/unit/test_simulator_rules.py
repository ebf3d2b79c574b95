"""The simulator's rules without HTTP: labels, schemas, limits, latency, faults, settings."""

import statistics
from random import Random
from typing import Any

import jsonschema_rs
import orjson
import pytest

from pipeline.errors import JobError
from pipeline.simulator.answers import answer, offered_labels
from pipeline.simulator.faults import FaultKind, choose_fault
from pipeline.simulator.instances import instance
from pipeline.simulator.latency import Latency, parse_latency
from pipeline.simulator.ledger import Ledger
from pipeline.simulator.quota import Quota
from pipeline.simulator.settings import Settings, settings_from_json, settings_from_options


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Label the review. Labels: positive, negative", ("positive", "negative")),
        ("Categories (pick one): news | sport | not spam", ("news", "sport", "not spam")),
        ("Answer with one of: a, b or c.", ("a", "b", "c")),
        ("Answer with exactly one word: positive or negative.", ("positive", "negative")),
        (
            "Classify this as positive, negative or neutral. Text: bad, or good?",
            ("positive", "negative", "neutral"),
        ),
        ("Decide whether the review is positive or negative.", ("positive", "negative")),
        ('Answer "yes" or "no".', ("yes", "no")),
        ("Choose between 'very good' and 'very bad', please", ("very good", "very bad")),
        ("标签：正面、负面、中性。", ("正面", "负面", "中性")),
        ("情感是“正面”还是“负面”？", ("正面", "负面")),
        ("You label product reviews.", ()),
        ("Act as a helpful, polite assistant.", ()),
        ('Say "hello" to "Bob" now', ()),
        ("Is it good, or bad?", ()),
    ],
)
def test_offered_labels_are_found_by_the_documented_rules(text: str, labels: tuple[str, ...]) -> None:
    assert offered_labels([text]) == labels


def test_labels_of_an_earlier_message_go_before_those_of_a_row() -> None:
    assert offered_labels(["Labels: a, b", "Labels: c, d"]) == ("a", "b")


@pytest.mark.parametrize(
    "text", ["a " * 9_000, " " * 9_000, '"' * 9_000, '"a",  ' * 2_000, "label as" * 2_000]
)
def test_a_hostile_text_offers_nothing_and_takes_no_time_to_say_so(text: str) -> None:
    assert len(offered_labels([text])) < 2


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sentiment": {"type": "string", "enum": ["positive", "negative"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "even": {"type": "integer", "multipleOf": 2, "exclusiveMinimum": 4},
        "reasons": {"type": "array", "items": {"type": "string", "minLength": 12}, "minItems": 2},
        "code": {"type": "string", "maxLength": 3},
        "sure": {"type": ["null", "boolean"]},
        "kind": {"const": "review"},
        "parent": {"anyOf": [{"$ref": "#/$defs/parent"}, {"type": "null"}]},
    },
    "required": ["sentiment", "score", "stars", "even", "reasons", "code", "kind", "parent"],
    "additionalProperties": False,
    "$defs": {"parent": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def test_an_instance_fits_its_schema() -> None:
    check = jsonschema_rs.validator_for(SCHEMA)
    drawn = [instance(SCHEMA, Random(seed)) for seed in range(50)]
    assert all(check.is_valid(value) for value in drawn)
    assert {value["sentiment"] for value in drawn} == {"positive", "negative"}


def test_a_schema_that_refers_to_itself_ends() -> None:
    instance({"$ref": "#"}, Random(0))
    instance({"properties": {"next": {"$ref": "#"}}}, Random(0))


def test_json_object_follows_a_schema_in_the_prompt_else_the_labels() -> None:
    asked = [f"Answer in JSON by this schema: {orjson.dumps(SCHEMA).decode()}"]
    said = answer(asked, {"type": "json_object"}, 10, Random(0))
    assert jsonschema_rs.is_valid(SCHEMA, orjson.loads(said))
    asked = ["Answer in JSON. Labels: a, b"]
    assert orjson.loads(answer(asked, {"type": "json_object"}, 10, Random(0)))["label"] in ("a", "b")


def test_requests_per_minute_are_held_in_every_window() -> None:
    quota = Quota(Settings(requests_per_minute=120))
    admitted = [
        sum(quota.admit("m", 1, 100 + second + i / 10) is None for i in range(10)) for second in range(60)
    ]
    assert admitted == [2] * 60


def test_a_fraction_of_a_request_per_window_is_held_over_the_minute() -> None:
    for per_minute in (30, 70, 90):
        quota = Quota(Settings(requests_per_minute=per_minute))
        admitted = sum(quota.admit("m", 1, tenth / 10) is None for tenth in range(600))
        assert admitted in (per_minute, per_minute + 1)


def test_tokens_larger_than_a_window_pass_and_are_owed() -> None:
    quota = Quota(Settings(tokens_per_minute=6_000))  # 100 a second
    assert quota.admit("m", 250, 0.0) is None
    assert quota.admit("m", 1, 0.5) is FaultKind.LIMIT_TOKENS
    assert quota.admit("m", 1, 1.5) is FaultKind.LIMIT_TOKENS
    assert quota.admit("m", 1, 2.0) is None


def test_each_model_has_its_own_limits_and_refusals_cost_nothing() -> None:
    quota = Quota(Settings(requests_per_minute=60, tokens_per_minute=600))
    assert quota.admit("a", 10, 0.0) is None
    assert quota.admit("a", 10, 0.1) is FaultKind.LIMIT_REQUESTS
    assert quota.admit("b", 10, 0.1) is None
    assert quota.admit("a", 10, 1.0) is None


def test_a_longer_window_allows_more_at_once() -> None:
    quota = Quota(Settings(requests_per_minute=60, window_s=10))
    assert [quota.admit("m", 1, 0.0) for _ in range(11)] == [None] * 10 + [FaultKind.LIMIT_REQUESTS]


def test_a_burst_is_refused_and_a_ramp_is_not() -> None:
    quota = Quota(Settings(requests_per_minute=6_000, burst_growth=2.0))  # 100 a second
    assert sum(quota.admit("m", 1, 0.0) is None for _ in range(50)) == 10
    assert quota.admit("m", 1, 0.9) is FaultKind.LIMIT_BURST
    assert sum(quota.admit("m", 1, 1.0) is None for _ in range(50)) == 20
    assert sum(quota.admit("m", 1, 2.0) is None for _ in range(50)) == 40


def test_latencies_follow_their_distribution() -> None:
    random = Random(0)
    assert parse_latency("200ms").sample_s(random) == pytest.approx(0.2)
    uniform = [parse_latency("uniform:100ms-400ms").sample_s(random) for _ in range(2_000)]
    assert 0.1 <= min(uniform) < 0.12 and 0.38 < max(uniform) <= 0.4
    lognormal = [parse_latency("lognormal:median=800ms, sigma=0.5").sample_s(random) for _ in range(2_000)]
    assert statistics.median(lognormal) == pytest.approx(0.8, rel=0.1)
    assert parse_latency("0") == Latency()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("fast", "expected a duration such as 250ms"),
        ("200", "expected a duration"),
        ("uniform:400ms-100ms", "longer than"),
        ("normal:mean=1s", "unknown distribution 'normal'"),
        ("lognormal:median=1s", "takes median and sigma, found median"),
        ("lognormal:median=1s,sigma=x", "sigma is a number"),
    ],
)
def test_a_wrong_latency_says_how_to_write_it(written: str, said: str) -> None:
    with pytest.raises(JobError, match=said) as raised:
        parse_latency(written)
    assert "lognormal:median=800ms,sigma=0.5" in str(raised.value)


def test_faults_come_at_their_rates() -> None:
    rates = {FaultKind.RESET: 0.1, FaultKind.LIMIT_REQUESTS: 0.3}
    random = Random(0)
    drawn = [choose_fault(rates, random) for _ in range(10_000)]
    assert drawn.count(FaultKind.RESET) == pytest.approx(1_000, rel=0.15)
    assert drawn.count(FaultKind.LIMIT_REQUESTS) == pytest.approx(3_000, rel=0.15)


def test_settings_come_from_options_as_they_are_written() -> None:
    settings = settings_from_options(
        {"fault": ("429=0.05", "reset=0.01"), "latency": "50ms", "window": "5s", "port": None, "seed": 3}
    )
    assert settings.faults == {FaultKind.LIMIT_REQUESTS: 0.05, FaultKind.RESET: 0.01}
    assert (settings.latency.low_s, settings.window_s, settings.port, settings.seed) == (0.05, 5.0, 0, 3)
    assert settings_from_json('{"faults": {"cut": 0.5}, "latency": "50ms"}').faults == {FaultKind.CUT: 0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fault": ["resett=0.1"]}, "unknown fault 'resett'; did you mean 'reset'"),
        ({"fault": ["reset"]}, "expected kind=rate"),
        ({"fault": ["reset=0.7", "500=0.7"]}, "add up to 1.4"),
        ({"fault": ["reset=-1"]}, "between 0 and 1"),
        ({"latancy": "1s"}, "unknown simulator setting 'latancy'; did you mean 'latency'"),
        ({"requests_per_minute": 0}, "expected more than 0"),
        ({"host": "0.0.0.0"}, "binds loopback only; found host '0.0.0.0'"),
        ({"host": "example.org"}, "binds loopback only"),
        ({"burst_growth": 2}, "requests_per_minute"),
    ],
)
def test_a_wrong_setting_is_an_error_with_the_next_step(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        settings_from_options(options)


def test_other_hosts_can_be_allowed() -> None:
    assert settings_from_options({"host": "0.0.0.0", "allow_non_loopback": True}).host == "0.0.0.0"


def test_the_ledger_stays_bounded_and_its_totals_exact() -> None:
    ledger = Ledger(max_keys=3, max_entries=2, key=bytes.decode)
    for key in "abcdea":
        entry = ledger.receive(key.encode(), 0.0)
        entry.status, entry.answered, entry.completed = 200, True, True
        ledger.settle(entry)
    totals = ledger.totals()
    assert (totals["received"], totals["answered"], totals["distinct"], totals["repeated"]) == (6, 6, 3, 1)
    assert (totals["keys_dropped"], totals["entries_dropped"]) == (2, 4)
    assert ledger.keys["a"].statuses == [200, 200]
