"""Child servers: started, awaited, stopped, and never left behind. The children here are one-line fakes."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import children, llama_server
from pipeline.children import ChildSpec, start_child
from pipeline.errors import ServerStartError, SetupError

URL = "http://127.0.0.1:9/v1"
ANNOUNCE = f"""import sys; print('{{"url": "{URL}"}}', flush=True); """
UNTIL_EOF = "sys.stdin.read()"


def fake(script: str, *, timeout_s: float = 30.0, log_path: Path | None = None) -> ChildSpec:
    return ChildSpec(
        argv=[sys.executable, "-c", script], name="fake server", ready_timeout_s=timeout_s, log_path=log_path
    )


def start_error(spec: ChildSpec) -> str:
    async def main() -> None:
        async with start_child(spec):
            pytest.fail("it counted as ready")

    with pytest.raises(ServerStartError) as caught:
        asyncio.run(main())
    return str(caught.value)


def test_a_child_lives_as_long_as_the_block_and_ends_by_itself() -> None:
    async def main() -> None:
        async with start_child(fake(ANNOUNCE + UNTIL_EOF)) as child:
            assert child.url == URL
            assert child.exit_code is None
        assert child.exit_code == 0

    asyncio.run(main())


def test_a_child_that_ignores_the_end_of_stdin_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE_S", 0.05)

    async def main() -> None:
        async with start_child(fake(ANNOUNCE + "import threading; threading.Event().wait()")) as child:
            pass
        assert child.exit_code == -signal.SIGTERM

    asyncio.run(main())


def test_a_child_that_ignores_sigterm_too_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE_S", 0.05)
    deaf = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); "

    async def main() -> None:
        async with start_child(fake(deaf + ANNOUNCE + "threading.Event().wait()")) as child:
            pass
        assert child.exit_code == -signal.SIGKILL

    asyncio.run(main())


def test_a_child_is_stopped_when_the_block_fails() -> None:
    async def main() -> int | None:
        try:
            async with start_child(fake(ANNOUNCE + UNTIL_EOF)) as child:
                raise KeyError("the run broke")
        except KeyError:
            return child.exit_code

    assert asyncio.run(main()) == 0


def test_ctrl_c_at_the_terminal_does_not_reach_the_child() -> None:
    async def main() -> None:
        async with start_child(fake(ANNOUNCE + UNTIL_EOF)) as child:
            assert os.getpgid(child.pid) != os.getpgid(0)

    asyncio.run(main())


def test_a_child_that_dies_early_is_told_with_its_exit_code_and_last_words(tmp_path: Path) -> None:
    log = tmp_path / "run" / "server.log"
    script = "import sys; [print('line', n, file=sys.stderr) for n in range(100)]; sys.exit(3)"
    said = start_error(fake(script, log_path=log))
    assert "fake server" in said
    assert "exit code 3" in said
    assert "line 99" in said
    assert "line 50\n" not in said
    assert str(log) in said
    assert "line 0\n" in log.read_text()


def test_last_words_are_those_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("from an earlier run\n")
    said = start_error(fake("import sys; sys.exit('no room')", log_path=log))
    assert "no room" in said
    assert "earlier" not in said
    assert log.read_text().startswith("from an earlier run\n")


def test_last_words_are_told_without_a_log_file() -> None:
    assert "no room" in start_error(fake("import sys; sys.exit('no room')"))


def test_a_child_that_never_gets_ready_is_given_up() -> None:
    assert "not ready within 0.05 s" in start_error(fake("import sys; " + UNTIL_EOF, timeout_s=0.05))


@pytest.mark.parametrize("line", ["Serving at 9000", '["url"]', '{"url": 9000}', "x" * 100_000])
def test_another_announcement_is_not_taken_for_readiness(line: str) -> None:
    script = f"import sys; print({line!r}, flush=True); {UNTIL_EOF}" if len(line) < 1000 else (
        f"import sys; print('x' * {len(line)}, flush=True); {UNTIL_EOF}"
    )
    assert "where a JSON line with its url was expected" in start_error(fake(script))


def test_a_program_that_does_not_exist_is_named() -> None:
    spec = ChildSpec(argv=["/nowhere/server"], name="fake server", ready_timeout_s=1)
    assert "/nowhere/server" in start_error(spec)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in start_error(fake(UNTIL_EOF, log_path=tmp_path / "file" / "server.log"))


def test_a_child_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    """The child holds one end of a pipe of ours: its end reads empty only when the child is gone."""
    read, write = os.pipe()
    run = f"""
import asyncio, sys
from pathlib import Path
from pipeline.children import ChildSpec, start_child

async def main():
    child = {ANNOUNCE + "sys.stderr.write('here'); sys.stderr.flush(); " + UNTIL_EOF!r}
    spec = ChildSpec(argv=[sys.executable, "-c", child], name="fake", ready_timeout_s=30, log_path=Path("/dev/fd/{write}"))
    async with start_child(spec):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    run = run.replace('log_path=Path("/dev/fd/', "log_path=Path('/proc/self/fd/").replace('")', "')")
    with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, pass_fds=[write]) as middle:
        os.close(write)
        assert middle.stdout is not None
        assert middle.stdout.readline() == b"up\n"
        middle.kill()
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"here"
