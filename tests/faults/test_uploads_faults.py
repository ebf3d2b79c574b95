"""Uploads over real connections that break, and a run that is killed among its uploads."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from pipeline.failures import Dialect
from pipeline.media import LocalFile, MediaReader, MediaSettings, limits_of
from pipeline.records import Failure, FailureKind
from pipeline.uploads import Uploads, UploadsSpec, UploadStore
from pipeline.vision_tokens import EARLIER_RULE
from tests.support.clock import run_virtual
from tests.support.servers import Connection, Script, refused_port, serve

SIZE = 3_000_000  # more than the sockets between us can hold


def answer(body: dict[str, str]) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(content),
        content,
    )


def document(folder: Path) -> LocalFile:
    (folder / "a.txt").write_bytes(b"x" * SIZE)
    limits = limits_of("dashscope", "qwen-long")
    return (
        MediaReader(MediaSettings(root=folder, rule=EARLIER_RULE, limits=limits)).documents("a.txt").files[0]
    )


def uploading(folder: Path, url: str, *, max_attempts: int = 5) -> Awaitable[str | Failure]:
    async def run() -> str | Failure:
        spec = UploadsSpec(
            base_url=url,
            native_url=None,
            account="a",
            model="qwen-long",
            dialect=Dialect.DASHSCOPE,
            headers={"Authorization": "Bearer k"},
            max_attempts=max_attempts,
        )
        client = httpx.AsyncClient(trust_env=False, verify=False)
        uploads = Uploads(spec, client, UploadStore(folder), lambda: datetime.now(UTC))
        try:
            return await uploads.address(document(folder))
        finally:
            await uploads.aclose()

    return run()


async def reset_at_the_head(conn: Connection) -> None:
    await conn.read_head()
    conn.reset()


async def reset_in_the_body(conn: Connection) -> None:
    await conn.read_head()
    await conn.reader.readexactly(SIZE // 2)
    conn.reset()


async def closed_without_an_answer(conn: Connection) -> None:
    await conn.read_request()


async def cut_in_the_answer(conn: Connection) -> None:
    await conn.read_request()
    await conn.send(answer({"id": "file-fe-lost", "status": "processed"})[:-10])


async def garbled(conn: Connection) -> None:
    await conn.read_request()
    await conn.send(b"not HTTP at all\r\n\r\n")


def first(fault: Script) -> Script:
    """The fault on the first connection; a good answer on the others."""

    async def script(conn: Connection) -> None:
        if conn.server.connections == 1:
            await fault(conn)
            return
        await conn.read_request()
        await conn.send(answer({"id": "file-fe-1", "status": "processed"}))
        await conn.wait_closed()

    return script


@pytest.mark.parametrize(
    "fault", [reset_at_the_head, reset_in_the_body, closed_without_an_answer, cut_in_the_answer, garbled]
)
def test_an_upload_whose_connection_breaks_is_sent_again_whole(
    tmp_path: Path, fault: Callable[[Connection], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with serve(first(fault)) as server:
            assert await uploading(tmp_path, server.url) == "file-fe-1"
            assert server.requests[-1].body.count(b"x" * SIZE) == 1

    run_virtual(main())


def test_a_server_that_is_not_there_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    async def main() -> Failure | str:
        return await uploading(tmp_path, f"http://127.0.0.1:{refused_port()}", max_attempts=2)

    failure = run_virtual(main())
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TRANSPORT


RUN = """
import asyncio, os, signal, sys
from datetime import datetime, timezone
from pathlib import Path
import httpx
from pipeline.failures import Dialect
from pipeline.media import LocalFile
from pipeline.uploads import Uploads, UploadsSpec, UploadStore

folder, dies_at = Path(sys.argv[1]), int(sys.argv[2])
posted = []

def provider(request):
    if request.method == "GET":
        return httpx.Response(200, json={"status": "processed"})
    posted.append(1)
    if len(posted) == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return httpx.Response(200, json={"id": f"file-{os.getpid()}-{len(posted)}", "status": "processed"})

async def main():
    spec = UploadsSpec(base_url="http://h", native_url=None, account="a", model="m", dialect=Dialect.DASHSCOPE, headers={})
    client = httpx.AsyncClient(transport=httpx.MockTransport(provider))
    uploads = Uploads(spec, client, UploadStore(folder), lambda: datetime.now(timezone.utc))
    import hashlib
    for n in range(3):
        text = b"document %d" % n
        digest = hashlib.blake2b(text, digest_size=16).hexdigest()
        file = LocalFile(purpose="document", name="a.txt", mime="text/plain", size_bytes=1, digest=digest, content=text)
        print(await uploads.address(file), flush=True)
    await uploads.aclose()

asyncio.run(main())
"""


def test_a_killed_run_loses_no_upload_that_was_answered(tmp_path: Path) -> None:
    def run(dies_at: int) -> tuple[int, list[str]]:
        argv = [sys.executable, "-c", RUN, str(tmp_path), str(dies_at)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode, done.stdout.split()

    code, before = run(dies_at=3)
    assert (code, len(before)) == (-signal.SIGKILL, 2)
    code, after = run(dies_at=0)
    assert code == 0
    assert after[:2] == before
    assert after[2] not in before


def test_runs_that_follow_on_one_folder_ask_for_the_file_and_do_not_send_it_again(tmp_path: Path) -> None:
    async def script(conn: Connection) -> None:
        while True:
            request = await conn.read_request()
            if request.line.startswith("POST"):
                await conn.send(answer({"id": f"file-fe-{len(conn.server.requests)}", "status": "processed"}))
            else:
                await conn.send(answer({"status": "processed"}))

    async def main() -> None:
        async with serve(script) as server:
            first_id = await uploading(tmp_path, server.url)
            again = await asyncio.gather(*(uploading(tmp_path, server.url) for _ in range(3)))
            assert set(again) == {first_id}
            assert sum(request.line.startswith("POST") for request in server.requests) == 1

    run_virtual(main())
