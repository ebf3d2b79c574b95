"""Every job of jobs/ runs as it stands against the simulator, and every mode gives the same row for the same answer."""

import asyncio
import io
import json
import struct
import threading
import tomllib
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any

import polars as pl
import pytest

from pipeline.check import check_plan
from pipeline.counting import exact_tokens
from pipeline.engine import RunOptions, run_job
from pipeline.errors import JobError
from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import Plan, make_plan, scan_dataset
from pipeline.simulator.settings import settings_from_options
from pipeline.summary import RunSummary
from tests.support.provider import Provider, serving
from tests.support.servers import resetting_after, serve
from tests.support.whole_runs import notes

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.toml"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PER_RUN = ["usage", "request_id", "started_at", "latency_ms", "first_token_ms", "queue_ms", "run_id", "key"]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving() as running:
        yield running


def planned(job: Path, provider: Provider, out: Path, *overrides: str) -> Plan:
    """A job of the vendor's, pointed at the simulator in this process."""
    env = {"DASHSCOPE_API_KEY": "sk-any"}
    # Limits beyond the vendor's: a run of some models would pace a handful of rows over seconds.
    limits = (
        "limits.max_concurrency=4",
        "limits.requests_per_minute=60_000",
        "limits.tokens_per_minute=100_000_000",
    )
    there = (f"model.base_url={provider.base_url}", f"output.path='{out}'", *limits)
    spec = load_job(job, overrides=[*there, *overrides], env=env, now=NOW)
    return make_plan(spec, resolve_target(spec, env=env))


def ran(plan: Plan, limit: int | None = None) -> tuple[RunSummary, pl.DataFrame]:
    options = RunOptions(limit=limit, deadline_s=None, notes=notes(io.StringIO(), quiet=True))
    summary = run_job(plan, options, now=lambda: datetime.now(UTC))
    return summary, pl.read_parquet(Path(summary.results) / "*.parquet")


def dashscope_job(name: str) -> Path:
    return ROOT / "jobs" / f"{name}.toml"


# Every job


VENDOR_JOBS = [
    name
    for name in JOBS
    if tomllib.loads(dashscope_job(name).read_text())["model"]["provider"] == "dashscope"
]


def test_there_is_a_job_for_every_section_of_the_reference() -> None:
    wanted = {"text", "stream", "image", "video", "tools", "search", "document", "native"}
    assert wanted | {"thinking", "json", "openai-batch"} <= set(VENDOR_JOBS)


@pytest.mark.parametrize("name", VENDOR_JOBS)
def test_the_job_runs_green_and_a_second_run_sends_nothing(
    name: str, provider: Provider, tmp_path: Path
) -> None:
    plan = planned(dashscope_job(name), provider, tmp_path / "out")
    summary, rows = ran(plan)
    assert (summary.exit_code, summary.status["ok"]) == (0, summary.rows)
    assert rows["row_id"].n_unique() == len(rows) == summary.rows > 0
    assert rows["prompt_tokens"].min() > 0  # type: ignore[operator]
    assert rows["model"].unique().to_list() == [plan.target.model_name]
    again, _ = ran(planned(dashscope_job(name), provider, tmp_path / "out"))
    assert (again.exit_code, again.sent) == (0, 0)


def test_a_stream_tells_when_its_first_token_came(provider: Provider, tmp_path: Path) -> None:
    summary, rows = ran(planned(dashscope_job("stream"), provider, tmp_path))
    assert summary.streamed == "the job asks for it"
    assert rows.filter(pl.col("first_token_ms") > pl.col("latency_ms")).is_empty()
    assert rows["first_token_ms"].null_count() == 0
    _, whole = ran(planned(dashscope_job("text"), provider, tmp_path / "whole"))
    assert whole["first_token_ms"].null_count() == len(whole)


def test_tool_calls_land_in_their_column(provider: Provider, tmp_path: Path) -> None:
    _, rows = ran(planned(dashscope_job("tools"), provider, tmp_path))
    calls = rows.filter(pl.col("finish_reason") == "tool_calls")
    assert len(calls) > 0
    for row in calls.iter_rows(named=True):
        assert row["tool_calls"][0]["name"] in ("get_current_time", "get_current_weather")
        assert isinstance(json.loads(row["tool_calls"][0]["arguments"]), dict)


def test_reasoning_has_its_column_its_tokens_and_its_price(provider: Provider, tmp_path: Path) -> None:
    _, rows = ran(planned(dashscope_job("thinking"), provider, tmp_path))
    assert rows["reasoning_content"].str.len_chars().min() > 0  # type: ignore[operator]
    assert rows["reasoning_tokens"].min() > 0  # type: ignore[operator]
    row = rows.row(0, named=True)
    # qwen-plus in Beijing, to 128K: 0.8 in, 8 out with thinking, CNY per million.
    assert float(row["cost"]) == pytest.approx(
        (row["prompt_tokens"] * 0.8 + row["completion_tokens"] * 8) / 1e6
    )


def test_json_mode_gives_typed_columns(provider: Provider, tmp_path: Path) -> None:
    _, rows = ran(planned(dashscope_job("json"), provider, tmp_path))
    assert rows.schema["score"] == pl.Int64
    assert rows["sentiment"].is_in(["positive", "negative"]).all()
    assert rows["score"].is_between(0, 10).all()


def test_a_batch_line_keeps_its_own_id_and_parameters(provider: Provider, tmp_path: Path) -> None:
    plan = planned(dashscope_job("openai-batch"), provider, tmp_path)
    _, rows = ran(plan)
    assert rows["row_id"].to_list() == [f"line-{n}" for n in range(1, 7)]
    shown = check_plan(plan, scan_dataset(plan, limit=None), limit=None, show=2).requests
    assert [json.loads(one.request.body)["temperature"] for one in shown] == [0.2, 0]


# One row shape


@pytest.mark.parametrize("job", ["text", "tools", "thinking", "image"])
def test_the_same_answer_is_the_same_row_in_every_mode(job: str, provider: Provider, tmp_path: Path) -> None:
    tables = []
    for protocol in ("compatible", "native"):
        for stream in ("false", "true"):
            overrides = (f"model.protocol={protocol}", f"response.stream={stream}")
            summary, rows = ran(
                planned(dashscope_job(job), provider, tmp_path / f"{protocol}-{stream}", *overrides)
            )
            assert summary.exit_code == 0
            tables.append(rows.drop(PER_RUN))
    for other in tables[1:]:
        assert other.equals(tables[0])


def test_all_choices_and_logprobs_are_kept(provider: Provider, tmp_path: Path) -> None:
    plan = planned(dashscope_job("text"), provider, tmp_path, "params.n=2", "params.logprobs=true")
    _, rows = ran(plan, limit=3)
    for choices in rows["choices"]:
        found = json.loads(choices)
        assert [choice["index"] for choice in found] == [0, 1]
        assert all(choice["logprobs"]["content"] for choice in found)


# Models that think or stream by themselves


def test_a_model_that_answers_in_streams_alone_is_streamed_and_the_summary_says_so(
    provider: Provider, tmp_path: Path
) -> None:
    job = write(tmp_path, 'user = "{{ q }}"', {"q": "你是谁？"}, model="qwq-plus")
    summary, rows = ran(planned(job, provider, tmp_path / "out"))
    assert summary.streamed == "the model answers in a stream alone"
    assert rows["first_token_ms"].null_count() == 0


def test_a_model_that_thinks_by_default_is_refused_until_the_job_says_which(
    provider: Provider, tmp_path: Path
) -> None:
    job = write(tmp_path, 'user = "{{ q }}"', {"q": "你是谁？"}, model="qwen3.5-plus")
    with pytest.raises(JobError, match=r"paid as output.*enable_thinking = false, or true"):
        planned(job, provider, tmp_path / "out")
    summary, rows = ran(planned(job, provider, tmp_path / "out", "params.enable_thinking=false"))
    assert summary.exit_code == 0
    assert rows["reasoning_content"].to_list() == [None]


# Media


def write(folder: Path, prompt: str, *rows: dict[str, Any], model: str = "qwen-vl-max") -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = folder / "job.toml"
    job.write_text(
        f'name = "j"\n[input]\npath = "rows.jsonl"\nroot = "."\n[prompt]\n{prompt}\n'
        f'[model]\nprovider = "dashscope"\nname = "{model}"\n[output]\npath = "out"\n',
        encoding="utf-8",
    )
    return job


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_pictures_may_be_bytes_of_a_parquet_column(provider: Provider, tmp_path: Path) -> None:
    job = dashscope_job("image")
    samples = ROOT / "data" / "samples" / "images.parquet"
    column = next(name for name, kind in pl.read_parquet_schema(samples).items() if kind == pl.Binary)
    plan = planned(job, provider, tmp_path, f"input.path='{samples}'", f"prompt.images={column}")
    summary, _ = ran(plan)
    assert (summary.exit_code, summary.status["failed"], summary.done) == (0, 0, summary.rows)
    shown = check_plan(plan, scan_dataset(plan, limit=None), limit=None, show=1).requests[0]
    url = json.loads(shown.request.body)["messages"][-1]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/")


def test_a_picture_outside_the_root_or_missing_is_a_failed_row_and_is_never_sent(
    provider: Provider, tmp_path: Path
) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(png(64, 64))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "fine.png").write_bytes(png(64, 64))
    names = ["fine.png", "../secret.png", "link.png", str(tmp_path / "secret.png"), "none.png"]
    job = write(inside, 'user = "?"\nimages = ["{{ p }}"]', *({"p": name} for name in names))
    summary, rows = ran(planned(job, provider, tmp_path / "out", "budget.error_threshold=1"))
    assert rows["status"].to_list() == ["ok"] + ["failed"] * 4
    assert rows["error_kind"].to_list() == [None] + ["invalid_input"] * 4
    assert summary.sent == 1


def test_frames_too_few_for_a_video_are_a_failed_row(provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(png(64, 64))
    job = write(
        tmp_path, 'user = "?"\nvideo = "frames"', {"frames": ["f.png"] * 3}, {"frames": ["f.png"] * 4}
    )
    _, rows = ran(planned(job, provider, tmp_path / "out", "budget.error_threshold=1"))
    assert rows["status"].to_list() == ["failed", "ok"]
    assert "4 to" in rows["error_message"][0]


# Documents


def test_each_document_is_uploaded_once_over_rows_and_runs(provider: Provider, tmp_path: Path) -> None:
    before = provider.ledger.files.totals()["uploaded"]
    job = dashscope_job("document")
    ran(planned(job, provider, tmp_path / "out"), limit=2)
    summary, rows = ran(planned(job, provider, tmp_path / "out"))
    assert summary.status["ok"] == summary.rows == len(rows)
    paths = [
        json.loads(line)["path"] for line in (ROOT / "data/samples/documents.jsonl").read_text().splitlines()
    ]
    assert provider.ledger.files.totals()["uploaded"] - before == len(set(paths)) < len(paths)


def test_deleted_documents_are_gone_after_the_run(provider: Provider, tmp_path: Path) -> None:
    summary, _ = ran(planned(dashscope_job("document"), provider, tmp_path / "out", "media.files=delete"))
    assert summary.exit_code == 0
    assert "deleted 4 uploaded files" in (tmp_path / "out" / "run.log").read_text()


def test_large_local_media_go_by_temporary_storage(provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(640, 400))
    job = write(tmp_path, 'user = "?"\nimages = ["{{ p }}"]', {"p": "p.png"})
    plan = planned(job, provider, tmp_path / "out", "media.upload=oss", "media.upload_over_bytes=0")
    summary, rows = ran(plan)
    assert summary.exit_code == 0, rows["error_message"].to_list()
    inline, _ = ran(planned(job, provider, tmp_path / "inline"))
    assert inline.tokens["prompt_tokens"] == summary.tokens["prompt_tokens"]
    assert provider.ledger.files.totals()["distinct"] > 0


# Estimates


@pytest.mark.parametrize(
    ("model", "prompt", "row", "billed"),
    [
        ("qwen-plus", 'system = "You are a helpful assistant."\nuser = "{{ q }}"', {"q": "你是谁?"}, 22),
        ("qwen-plus", 'user = "{{ q }}"', {"q": "你是谁"}, 10),
        ("qwen-vl-max", 'user = "{{ q }}"\nimages = "p"', {"q": "这是什么?", "p": "dog.png"}, 1271),
        ("qwen-vl-plus", 'user = "{{ q }}"\nimages = "p"', {"q": "这是什么", "p": "dog.png"}, 1275),
        (
            "qwen-vl-max",
            'user = "{{ q }}"\nvideo = "f"',
            {"q": "描述这个视频的具体过程", "f": ["frame.png"] * 4},
            1466,
        ),
    ],
)
def test_check_estimates_what_the_examples_were_billed(
    model: str, prompt: str, row: dict[str, Any], billed: int, provider: Provider, tmp_path: Path
) -> None:
    (tmp_path / "dog.png").write_bytes(png(1372, 2044))
    (tmp_path / "frame.png").write_bytes(png(3840, 2160))
    plan = planned(write(tmp_path, prompt, row, model=model), provider, tmp_path / "out")
    (shown,) = check_plan(plan, scan_dataset(plan, limit=None), limit=None, show=1).requests
    assert abs(exact_tokens(plan, shown.prompt) - billed) <= 1
    _, rows = ran(plan)
    assert abs(rows["prompt_tokens"][0] - billed) <= 1


def test_check_estimates_tools_as_billed(provider: Provider, tmp_path: Path) -> None:
    plan = planned(dashscope_job("tools"), provider, tmp_path)
    shown = check_plan(plan, scan_dataset(plan, limit=None), limit=None, show=1).requests[0]
    assert abs(exact_tokens(plan, shown.prompt) - 224) <= 1


# Streams that break


def test_streams_cut_before_their_end_are_asked_again_and_never_taken_for_answers(tmp_path: Path) -> None:
    faults = settings_from_options({"fault": ["cut_stream=0.3", "error_event=0.1"], "seed": 3})
    with serving(faults) as faulty:
        summary, rows = ran(
            planned(
                dashscope_job("stream"), faulty, tmp_path, "budget.error_threshold=1", "retry.max_attempts=20"
            )
        )
        assert faulty.ledger.faults["cut_stream"] > 0
    assert set(rows["status"]) <= {"ok", "blocked"}
    assert summary.sent > summary.rows
    assert rows.filter(pl.col("status") == "ok")["finish_reason"].null_count() == 0


def test_a_stream_that_breaks_behind_its_last_token_is_a_whole_answer(tmp_path: Path) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}], "usage": None}
    event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    job = write(tmp_path, 'user = "{{ q }}"', {"q": "?"}, model="qwen-plus")

    urls: Queue[str] = Queue()
    done = threading.Event()

    async def main() -> None:
        async with serve(resetting_after(head + b"%x\r\n%b\r\n" % (len(event), event))) as server:
            urls.put(server.url.removesuffix("/chat/completions"))
            await asyncio.to_thread(done.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        env = {"DASHSCOPE_API_KEY": "sk-any"}
        there = [
            f"model.base_url={urls.get(timeout=60)}",
            f"output.path='{tmp_path / 'out'}'",
            "response.stream=true",
        ]
        spec = load_job(job, overrides=there, env=env, now=NOW)
        summary, rows = ran(make_plan(spec, resolve_target(spec, env=env)))
    finally:
        done.set()
        thread.join()
    assert (summary.sent, rows["status"].to_list(), rows["content"].to_list()) == (1, ["ok"], ["yes"])
