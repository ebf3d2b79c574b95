"""Figures of streams, pictures and documents: CPU of a streamed row, memory with pictures in flight, uploads of documents.

    python -m benchmarks.modes

Prints one table, which `make bench` writes into docs/performance.md. Takes about two minutes, a part of it the pace of uploads
(3 a second).
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import orjson
import uvloop

from benchmarks.ours import read_plan, write_job
from benchmarks.support import ANSWER, child, silence, table, write_reviews
from benchmarks.workload import CLIENT_CORE, SERVER_CORE, peak_mib, pin
from pipeline.commands.job import now
from pipeline.engine import RunOptions, run_job
from pipeline.simulator.server import running
from pipeline.simulator.settings import Settings

STREAM_ROWS, CHUNKS, IN_FLIGHT, STREAM_TARGET = 10_000, 50, 64, 1.5
# Chunks that come apart, as a model writes them: every one wakes the client, as many connections as that takes to be busy.
APART_S, APART_IN_FLIGHT, APART_ROWS = 0.01, 512, 4_000
PICTURES, PICTURE_BYTES, PICTURES_IN_FLIGHT = 1_000, 200_000, 32
DOCUMENT_ROWS, DOCUMENTS = 1_000, 100
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
_CONTENT = "positive"


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "model": "qwen-plus",
        "object": "chat.completion.chunk",
        "choices": [{"delta": delta, "finish_reason": finish, "index": 0, "logprobs": None}],
        "usage": None,
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _thoughts() -> list[str]:
    return [f"thought {n} " for n in range(CHUNKS - 2)]


def _whole() -> bytes:
    """The answer that the stream brings, unstreamed."""
    answer = orjson.loads(ANSWER)
    answer["choices"][0]["message"] = {"content": "positive", "reasoning_content": "".join(_thoughts())}
    return orjson.dumps(answer)


def _events() -> list[bytes]:
    usage = {"choices": [], "usage": orjson.loads(ANSWER)["usage"]}
    texts = [_event({"content": "posi"}), _event({"content": "tive"})]
    thoughts = [_event({"reasoning_content": thought}) for thought in _thoughts()]
    last = [_event({"content": ""}, "stop"), b"data: " + orjson.dumps(usage) + b"\n\n", b"data: [DONE]\n\n"]
    return [*thoughts, *texts, *last]


class Stub(asyncio.Protocol):
    """Answers each request at once; where a stream is asked for, in 50 chunks, apart where the path says so.

    Else they are one write, lest the server be the slower of the two: what it writes in one turn goes out as one anyway.
    """

    chunks: ClassVar = [b"%x\r\n%b\r\n" % (len(event), event) for event in _events()] + [b"0\r\n\r\n"]
    streamed = _HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
    at_once = streamed + b"".join(chunks)
    whole = _HEAD % b"application/json" + b"content-length: %d\r\n\r\n%b" % (len(_whole()), _whole())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's own, which no class of asyncio's is a base of
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._held) < end + 4 + length:
            return
        body, self._held = self._held[end + 4 : end + 4 + length], b""
        if b'"stream":true' not in body:
            self._transport.write(self.whole)
            return
        if head.startswith(b"post /apart/"):
            self._transport.write(self.streamed)
            self._send(0)
        else:
            self._transport.write(self.at_once)

    def _send(self, number: int) -> None:
        self._transport.write(self.chunks[number])
        if number + 1 < len(self.chunks):
            asyncio.get_running_loop().call_later(APART_S, self._send, number + 1)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


def _run(job: Path) -> tuple[int, float, float]:
    """Rows, CPU seconds and peak MiB of one job in this process."""
    options = RunOptions(limit=None, deadline_s=None, notes=silence())
    cpu_s = time.process_time()
    summary = run_job(read_plan(job), options, now=now)
    assert summary.exit_code == 0 and summary.status["ok"] == summary.rows, summary
    return summary.rows, time.process_time() - cpu_s, peak_mib()


def _of_stub(what: str, folder: Path, port: int) -> tuple[int, float, float]:
    base_url = f"http://127.0.0.1:{port}/compatible-mode/v1"
    if what == "pictures":
        return _run(_picture_job(folder, base_url))
    apart = what.endswith("apart")
    rows = write_reviews(folder / "rows.jsonl", APART_ROWS if apart else STREAM_ROWS)
    base_url = base_url.replace("/compatible", "/apart/compatible") if apart else base_url
    job = write_job(folder, rows, base_url=base_url, in_flight=APART_IN_FLIGHT if apart else IN_FLIGHT)
    if what.startswith("streamed"):
        job.write_text(job.read_text().replace("[response]", "[response]\nstream = true"))
    return _run(job)


def _picture_job(folder: Path, base_url: str) -> Path:
    for n in range(10):
        # A PNG's head, then what no picture needs to be for its size to be read.
        head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x04\x00\x00\x00\x03\x00\x08\x02\x00\x00\x00"
        (folder / f"{n}.png").write_bytes(head + os.urandom(PICTURE_BYTES - len(head)))
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"p": f"{n % 10}.png"}) + "\n" for n in range(PICTURES)))
    job = folder / "job.toml"
    job.write_text(
        f'name = "pictures"\n[input]\npath = "rows.jsonl"\nroot = "."\n[prompt]\nuser = "?"\nimages = ["{{{{ p }}}}"]\n'
        f'[model]\nprovider = "dashscope"\nname = "qwen-vl-max"\nbase_url = "{base_url}"\n'
        f'[output]\npath = "run"\n[limits]\nmax_concurrency = {PICTURES_IN_FLIGHT}\n'
        "requests_per_minute = 1_000_000_000\ntokens_per_minute = 1_000_000_000_000\n"
    )
    return job


async def _documents(folder: Path) -> int:
    for n in range(DOCUMENTS):
        (folder / f"{n}.txt").write_text(f"Document {n}. " * 50)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"p": f"{n % DOCUMENTS}.txt"}) + "\n" for n in range(DOCUMENT_ROWS)))
    async with running(Settings()) as simulator:
        job = folder / "job.toml"
        job.write_text(
            'name = "documents"\n[input]\npath = "rows.jsonl"\nroot = "."\n[prompt]\nuser = "?"\ndocuments = ["{{ p }}"]\n'
            f'[model]\nprovider = "dashscope"\nname = "qwen-long"\nbase_url = "{simulator.base_url}"\n[output]\npath = "run"\n'
        )
        await asyncio.to_thread(_run_child, "documents-client", job)
        return simulator.ledger.files.totals()["uploaded"]


def _run_child(what: str, job: Path) -> None:
    child("modes", what, "--job", job)


class Figures(NamedTuple):
    """The figures as a Markdown table, and whether each meets its target."""

    text: str
    holds: bool


def measure(rounds: int = 3) -> Figures:
    """Every figure, each run in a process of its own, medians of `rounds`."""
    command = [sys.executable, "-m", "benchmarks.modes", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        port = int(server.stdout.readline())
        taken = [
            {what: child("modes", what, "--port", port) for what in ("whole", "streamed")}
            for _ in range(rounds)
        ]
        apart = child("modes", "streamed-apart", "--port", port)["us_a_row"]
        pictures = child("modes", "pictures", "--port", port)
        server.stdin.close()
        server.wait(timeout=10)
    whole, streamed = (
        sorted(one[what]["us_a_row"] for one in taken)[rounds // 2] for what in ("whole", "streamed")
    )
    uploads = child("modes", "documents")["uploads"]
    text = table(
        ["figure", "measured", "target"],
        [
            [f"CPU a row, whole answer, {IN_FLIGHT} in flight", f"{whole:.0f} us", ""],
            [
                f"CPU a row, {CHUNKS}-chunk stream",
                f"{streamed:.0f} us ({streamed / whole:.2f}x)",
                f"{STREAM_TARGET:g}x",
            ],
            [
                f"the same, {APART_S * 1000:.0f} ms between two chunks, {APART_IN_FLIGHT} in flight",
                f"{apart:.0f} us",
                "",
            ],
            [
                f"peak memory, pictures of {PICTURE_BYTES // 1000} KB, {PICTURES_IN_FLIGHT} in flight",
                f"{pictures['peak_mib']:.0f} MiB",
                "300 MiB",
            ],
            [f"uploads for {DOCUMENT_ROWS:,} rows over {DOCUMENTS} documents", f"{uploads}", f"{DOCUMENTS}"],
        ],
    )
    holds = streamed <= STREAM_TARGET * whole and pictures["peak_mib"] < 300 and uploads == DOCUMENTS
    return Figures(text, holds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all")
    parser.add_argument("--port", type=int)
    parser.add_argument("--job", type=Path)
    options = parser.parse_args()
    if options.what == "serve":
        pin(SERVER_CORE)
        uvloop.run(_serve())
        return
    if options.what == "all":
        print(measure().text)
        return
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        if options.what == "documents":
            print(json.dumps({"uploads": asyncio.run(_documents(Path(name)))}))
            return
        pin(CLIENT_CORE)
        rows, cpu_s, peak = (
            _run(options.job) if options.job else _of_stub(options.what, Path(name), options.port)
        )
        print(json.dumps({"us_a_row": cpu_s / rows * 1e6, "peak_mib": peak}))


if __name__ == "__main__":
    main()
