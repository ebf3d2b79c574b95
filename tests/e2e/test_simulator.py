"""The simulator over real loopback connections: what clients see, and what its ledger says of it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import openai
import orjson
import pytest

from pipeline.errors import SetupError
from pipeline.simulator.ledger import body_key
from pipeline.simulator.server import Simulator, running
from pipeline.simulator.settings import Settings, settings_from_options
from pipeline.tokens import count_text
from tests.support.simulators import CHAT, PATIENCE_S, WHO, Clock

LABEL = [
    {"role": "system", "content": "Labels: positive, negative"},
    {"role": "user", "content": "Good soap."},
]


def body(messages: list[dict[str, Any]], **params: Any) -> bytes:
    return orjson.dumps({"model": "qwen-plus", "messages": messages, **params})


def with_simulator(
    use: Callable[[Simulator, httpx.AsyncClient], Awaitable[None]],
    settings: Settings | None = None,
    clock: Callable[[], float] | None = None,
) -> None:
    """Run `use` against a fresh simulator, with a client whose base is the compatible mode."""

    async def main() -> None:
        chosen = {"clock": clock} if clock else {}
        async with (
            asyncio.timeout(PATIENCE_S),
            running(settings or Settings(), **chosen) as simulator,
            httpx.AsyncClient(base_url=simulator.base_url, trust_env=False) as client,
        ):
            await use(simulator, client)

    asyncio.run(main())


def test_the_openai_sdk_reads_a_text_answer_with_the_billed_usage() -> None:
    async def use(simulator: Simulator, _: httpx.AsyncClient) -> None:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="any", http_client=http) as client:
            answer = await client.chat.completions.create(model="qwen-plus", messages=WHO)  # type: ignore[arg-type]
            assert answer.choices[0].finish_reason == "stop"
            text = answer.choices[0].message.content
            assert text and answer.usage is not None
            assert answer.usage.prompt_tokens == 22
            assert answer.usage.completion_tokens == count_text(text)
            assert answer.usage.total_tokens == 22 + count_text(text)
            models = await client.models.list()
            assert "qwen-plus" in [model.id for model in models.data]
            with pytest.raises(openai.NotFoundError) as missing:
                await client.chat.completions.create(model="missing-model", messages=WHO)  # type: ignore[arg-type]
            assert missing.value.code == "model_not_found"

    with_simulator(use)


def test_max_tokens_cuts_each_choice_and_says_length() -> None:
    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        answer = (await client.post(CHAT, content=body(WHO, max_tokens=5, n=3))).json()
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 3
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert answer["usage"]["completion_tokens"] == 15

    with_simulator(use)


def test_a_labelling_prompt_gets_one_of_the_offered_labels() -> None:
    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        said = set()
        for row in range(20):
            asked = [LABEL[0], {"role": "user", "content": f"Review {row}"}]
            answer = (await client.post(CHAT, content=body(asked))).json()
            said.add(answer["choices"][0]["message"]["content"])
        assert said == {"positive", "negative"}

    with_simulator(use)


def test_a_json_schema_gets_an_instance() -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["spam", "ham"]}}, "required": ["label"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        asked = body(WHO, model="qwen3.7-plus", response_format=wanted)
        answer = (await client.post(CHAT, content=asked)).json()
        assert json.loads(answer["choices"][0]["message"]["content"])["label"] in ("spam", "ham")

    with_simulator(use)


def test_answers_follow_the_request_and_the_seed_not_the_order() -> None:
    bodies = [body([{"role": "user", "content": f"Tell me about {i}."}]) for i in range(5)]

    def answers(seed: int, order: list[int]) -> dict[int, bytes]:
        said: dict[int, bytes] = {}

        async def use(_: Simulator, client: httpx.AsyncClient) -> None:
            for i in order:
                said[i] = (await client.post(CHAT, content=bodies[i])).content

        with_simulator(use, Settings(seed=seed))
        return said

    first = answers(1, [0, 1, 2, 3, 4])
    assert answers(1, [4, 2, 0, 3, 1]) == first
    assert answers(2, [0, 1, 2, 3, 4]) != first


def test_faults_follow_body_and_repetition_so_that_a_retry_may_succeed() -> None:
    settings = settings_from_options({"fault": ["500=0.5"], "seed": 7})
    runs: list[list[int]] = []

    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        runs.append([(await client.post(CHAT, content=body(WHO))).status_code for _ in range(12)])

    with_simulator(use, settings)
    with_simulator(use, settings)
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


DOCUMENTED = {
    "429": (429, "limit_requests"),
    "429_tokens": (429, "insufficient_quota"),
    "429_burst": (429, "limit_burst_rate"),
    "500": (500, "internal_error"),
    "503": (503, "ModelUnavailable"),
    "blocked": (400, "data_inspection_failed"),
    "error_200": (200, "internal_error"),
}


@pytest.mark.parametrize(("fault", "expected"), DOCUMENTED.items())
def test_a_refusing_fault_is_the_documented_error(fault: str, expected: tuple[int, str]) -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        answer = await client.post(CHAT, content=body(WHO), headers={"X-Simulate": fault})
        assert (answer.status_code, answer.json()["error"]["code"]) == expected
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
        totals = simulator.ledger.totals()
        assert (totals["faults"], totals["answered"], totals["completed"]) == ({fault: 1}, 1, 0)

    with_simulator(use)


def test_faults_of_the_body_are_whole_answers_that_hold_no_completion_or_half_of_one() -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        async def ask(fault: str) -> httpx.Response:
            return await client.post(CHAT, content=body(WHO), headers={"X-Simulate": fault})

        page = await ask("html_502")
        assert (page.status_code, page.headers["content-type"]) == (502, "text/html")
        assert (await ask("empty")).content == b""
        with pytest.raises(json.JSONDecodeError):
            (await ask("garbage")).json()
        assert simulator.ledger.completed == 0

        whole = (await ask("none")).json()
        text = whole["choices"][0]["message"]["content"]
        partial = await ask("partial")
        assert partial.headers["x-dashscope-partialresponse"] == "true"
        assert partial.json()["choices"][0]["finish_reason"] is None
        truncated = await ask("truncated")
        assert truncated.json()["choices"][0]["finish_reason"] == "length"
        for cut in (partial, truncated):
            kept = cut.json()["choices"][0]["message"]["content"]
            assert kept != text and text.startswith(kept)
            assert cut.json()["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
        wrong = await ask("cott")
        assert wrong.status_code == 400 and "did you mean 'cut'" in wrong.text

    with_simulator(use)


def test_a_reset_gives_no_answer_and_a_cut_gives_half_of_one() -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadError):
            await client.post(CHAT, content=body(WHO), headers={"X-Simulate": "reset"})
        async with aiohttp.ClientSession() as session:
            sent = session.post(simulator.base_url + CHAT, data=body(WHO), headers={"X-Simulate": "reset"})
            with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
                await sent
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            await client.post(CHAT, content=body(WHO), headers={"X-Simulate": "cut"})
        tally = simulator.ledger.keys[body_key(body(WHO))]
        assert (tally.statuses, tally.answered, tally.completed) == ([0, 0, 200], 0, 0)
        assert tally.completion_tokens > 0  # generated, so billed, though it never arrived
        assert (tally.billed, simulator.ledger.totals()["billed"]) == (1, 1)
        assert (await client.post(CHAT, content=body(WHO))).status_code == 200

    with_simulator(use)


def test_a_slow_answer_comes_in_pieces_and_is_whole() -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        whole = await client.post(CHAT, content=body(WHO), headers={"X-Simulate": "none"})
        async with client.stream("POST", CHAT, content=body(WHO), headers={"X-Simulate": "slow"}) as answer:
            pieces = [piece async for piece in answer.aiter_raw()]
        assert len(pieces) > 1
        assert orjson.loads(b"".join(pieces))["choices"] == whole.json()["choices"]
        assert simulator.ledger.completed == 2

    with_simulator(use, settings_from_options({"slow": "40ms"}))


async def ledger_when(client: httpx.AsyncClient, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Read the ledger's totals until `done`; the caller's patience bounds it."""
    while True:
        totals: dict[str, Any] = (await client.get("/../../_ledger?keys=0")).json()["totals"]
        if done(totals):
            return totals


@pytest.mark.parametrize("fault", ["stall", "none"])
def test_a_client_that_leaves_before_the_answer_is_received_but_not_answered(fault: str) -> None:
    async def use(simulator: Simulator, _: httpx.AsyncClient) -> None:
        async with httpx.AsyncClient(base_url=simulator.url, trust_env=False) as watcher:
            async with httpx.AsyncClient(base_url=simulator.base_url, trust_env=False) as leaver:
                asked = asyncio.create_task(
                    leaver.post(CHAT, content=body(WHO), headers={"X-Simulate": fault}, timeout=None)
                )
                await ledger_when(watcher, lambda totals: totals["in_flight"] == 1)
                asked.cancel()
                await asyncio.wait([asked])
            totals = await ledger_when(watcher, lambda totals: totals["in_flight"] == 0)
            assert (totals["received"], totals["answered"], totals["by_status"]) == (1, 0, {"none": 1})

    with_simulator(use, settings_from_options({"latency": "60m"}))


def test_the_ledger_tells_apart_what_was_received_answered_and_paid_twice() -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        once, twice = body(WHO), body(LABEL)
        await client.post(CHAT, content=once)
        await client.post(CHAT, content=twice, headers={"X-Simulate": "503"})
        await client.post(CHAT, content=twice)
        await client.post(CHAT, content=twice)
        report = (await client.get(simulator.url + "/_ledger?full=1")).json()
        totals = report["totals"]
        assert (totals["received"], totals["answered"], totals["completed"]) == (4, 4, 3)
        assert (totals["distinct"], totals["repeated"]) == (2, 1)
        assert totals["by_status"] == {"200": 3, "503": 1}
        assert report["keys"][body_key(twice)]["statuses"] == [503, 200, 200]
        assert report["keys"][body_key(once)]["prompt_tokens"] == 22
        assert [entry["seen"] for entry in report["entries"]] == [1, 1, 2, 3]
        assert all(entry["request_id"] and entry["model"] == "qwen-plus" for entry in report["entries"])
        assert (await client.get(simulator.url + "/_health")).json() == {"status": "ok"}

    with_simulator(use)


def test_limits_refuse_within_each_second_with_the_documented_bodies() -> None:
    clock = Clock()

    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        async def codes() -> list[str]:
            answers = [await client.post(CHAT, content=body(LABEL)) for _ in range(3)]
            return [a.json()["error"]["code"] if a.status_code == 429 else "ok" for a in answers]

        assert await codes() == ["ok", "ok", "limit_requests"]
        clock.now_s = 0.99
        assert await codes() == ["limit_requests"] * 3
        clock.now_s = 1.0
        assert await codes() == ["ok", "ok", "limit_requests"]
        assert simulator.ledger.totals()["faults"] == {}

    with_simulator(use, Settings(requests_per_minute=120), clock)


def test_tokens_in_and_out_count_against_the_limit() -> None:
    clock = Clock()

    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        first = await client.post(CHAT, content=body(LABEL))
        spent = first.json()["usage"]["total_tokens"]
        assert 10 < spent < 30
        assert (await client.post(CHAT, content=body(LABEL))).json()["error"]["code"] == "insufficient_quota"
        clock.now_s = 2.0  # two windows later: 20 of the tokens owed are paid off
        again = await client.post(CHAT, content=body(LABEL))
        assert again.status_code == (200 if spent < 30 else 429)

    with_simulator(use, Settings(tokens_per_minute=600), clock)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"{not json", 400, "BadRequest.IllegalInput"),
        (b"[]", 400, "BadRequest.IllegalInput"),
        (orjson.dumps({"messages": WHO}), 400, "BadRequest.EmptyModel"),
        (orjson.dumps({"model": "qwen-plus"}), 400, "BadRequest.EmptyInput"),
        (body([]), 400, "invalid_parameter_error"),
        (body([{"role": "wizard", "content": "x"}]), 400, "invalid_parameter_error"),
        (body([{"role": "user", "content": 3}]), 400, "invalid_parameter_error"),
        (body(WHO, temperature=2), 400, "invalid_parameter_error"),
        (body(WHO, max_tokens=0), 400, "invalid_parameter_error"),
        (body(WHO, n=5), 400, "invalid_parameter_error"),
        (body(WHO, n=True), 400, "invalid_parameter_error"),
        (body(WHO, stream_options={}), 400, "invalid_parameter_error"),
        (body(WHO, response_format={"type": "json_object"}), 400, "invalid_parameter_error"),
        (body(WHO, user="x" * 4_000), 400, "BadRequest.TooLarge"),
    ],
)
def test_a_wrong_request_gets_the_documented_error(sent: bytes, status: int, code: str) -> None:
    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        answer = await client.post(CHAT, content=sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert (await client.post(CHAT, content=body(WHO))).status_code == 200

    with_simulator(use, Settings(max_body_bytes=2_000))


def test_a_body_without_a_stated_length_is_bounded_too() -> None:
    async def use(simulator: Simulator, client: httpx.AsyncClient) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 100

        answer = await client.post(CHAT, content=parts())
        assert answer.json()["error"]["code"] == "BadRequest.TooLarge"
        assert simulator.ledger.unread == 1

    with_simulator(use, Settings(max_body_bytes=2_000))


def test_a_wrong_key_and_a_wrong_path_are_told_apart() -> None:
    async def use(_: Simulator, client: httpx.AsyncClient) -> None:
        assert (await client.post(CHAT, content=body(WHO))).json()["error"]["code"] == "invalid_api_key"
        client.headers["Authorization"] = "Bearer sk-right"
        assert (await client.post(CHAT, content=body(WHO))).status_code == 200
        assert (await client.post("/embeddings", content=body(WHO))).status_code == 404
        assert (await client.get(CHAT)).status_code == 405

    with_simulator(use, Settings(api_key="sk-right"))


def test_a_port_that_is_taken_is_an_error_with_the_next_step() -> None:
    async def use(simulator: Simulator, _: httpx.AsyncClient) -> None:
        port = int(simulator.url.rpartition(":")[2])
        with pytest.raises(SetupError, match="take another port, or 0"):
            async with running(Settings(port=port)):
                pass

    with_simulator(use)


def start_child(settings: str = "{}") -> tuple["subprocess.Popen[bytes]", dict[str, Any]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.simulator", "--json-settings", settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    return child, json.loads(child.stdout.readline())


def test_a_child_serves_until_its_stdin_closes_and_leaves_sigint_to_its_parent() -> None:
    child, said = start_child('{"api_key": "k"}')
    with child:
        child.send_signal(signal.SIGINT)
        with httpx.Client(
            base_url=said["url"], trust_env=False, headers={"Authorization": "Bearer k"}
        ) as client:
            assert client.post(CHAT, content=body(WHO)).json()["usage"]["prompt_tokens"] == 22
            with pytest.raises(httpx.ReadError):
                client.post(CHAT, content=body(WHO), headers={"X-Simulate": "reset"})
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(CHAT, content=body(WHO), headers={"X-Simulate": "cut"})
            assert child.poll() is None
            _, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, errors) == (0, b"")


def test_a_child_ends_on_sigterm() -> None:
    child, _ = start_child()
    with child:
        child.terminate()
        assert child.wait(timeout=PATIENCE_S) == 0


def test_a_child_that_cannot_start_says_why_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.simulator", "--json-settings", '{"fault": ["cot=1"]}'],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == "unknown fault 'cot'; did you mean 'cut'?\n"
