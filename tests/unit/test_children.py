"""Child servers: started, awaited, stopped, and never left behind. The children here are one-line fakes."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.children import ChildSpec, python_module, start_child
from pipeline.errors import ServerStartError

URL = "http://127.0.0.1:9/v1"
ANNOUNCE = f"""import sys; print('{{"url": "{URL}"}}', flush=True); """
UNTIL_EOF = "sys.stdin.read()"
FOR_EVER = "import threading; threading.Event().wait()"


def fake(
    script: str, *, timeout_s: float = 30.0, log_path: Path | None = None, grace_s: float = 30.0
) -> ChildSpec:
    argv = [sys.executable, "-c", script]
    return ChildSpec(
        argv=argv, name="the fake server", ready_timeout_s=timeout_s, log_path=log_path, grace_s=grace_s
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


def test_a_child_that_ignores_the_end_of_stdin_is_terminated() -> None:

    async def main() -> None:
        async with start_child(fake(ANNOUNCE + FOR_EVER, grace_s=0.05)) as child:
            pass
        assert child.exit_code == -signal.SIGTERM

    asyncio.run(main())


def test_a_child_that_ignores_sigterm_too_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "

    async def main() -> None:
        async with start_child(fake(deaf + ANNOUNCE + FOR_EVER, grace_s=0.05)) as child:
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


def test_a_child_whose_start_is_given_up_half_way_is_stopped(tmp_path: Path) -> None:
    """Cancelled at each turn of the loop in which it is being started, it is always gone afterwards."""
    marker = f"mark-{os.getpid()}-{tmp_path.name}"

    async def main(turns: int) -> bool:
        spec = fake(ANNOUNCE + UNTIL_EOF + f"  # {marker}")
        started = asyncio.ensure_future(contextlib.AsyncExitStack().enter_async_context(start_child(spec)))
        for _ in range(turns):
            await asyncio.sleep(0)
        started.cancel()
        await asyncio.wait([started])
        return started.cancelled()

    def alive() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if marker.encode() in path.read_bytes():
                    found.append(path.parent.name)
        return found

    for turns in range(12):
        assert asyncio.run(main(turns))
        assert alive() == []


def test_a_child_that_dies_early_is_told_with_its_exit_code_and_last_words(tmp_path: Path) -> None:
    log = tmp_path / "run" / "server.log"
    script = "import sys; [print('line', n, file=sys.stderr) for n in range(100)]; sys.exit(3)"
    said = start_error(fake(script, log_path=log))
    assert said.startswith("The fake server ended")
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


@pytest.mark.parametrize("said", ["'Serving at 9000'", "'[1]'", """'{"url": 9000}'""", "'x' * 100_000"])
def test_another_announcement_is_not_taken_for_readiness(said: str) -> None:
    script = f"import sys; print({said}, flush=True); {UNTIL_EOF}"
    assert "where a JSON line with its url was expected" in start_error(fake(script))


def test_a_program_that_does_not_exist_is_named() -> None:
    spec = ChildSpec(argv=["/nowhere/server"], name="the fake server", ready_timeout_s=1)
    assert "/nowhere/server" in start_error(spec)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in start_error(fake(UNTIL_EOF, log_path=tmp_path / "file" / "server.log"))


RUN = """
import asyncio, sys
from pipeline.children import ChildSpec, start_child

async def main():
    spec = ChildSpec(argv=[sys.executable, "-c", sys.argv[1]], name="the fake server", ready_timeout_s=30)
    async with start_child(spec):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_child_does_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "held-by-the-child"
    os.mkfifo(fifo)
    child = f"held = open({str(fifo)!r}, 'w'); {ANNOUNCE}{UNTIL_EOF}"
    read = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with subprocess.Popen([sys.executable, "-c", RUN, child], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"up\n"
            with pytest.raises(BlockingIOError):  # the child has it open
                os.read(read, 1)
            run.kill()
        assert select.select([read], [], [], 30)[0], "the child is still there"
        assert os.read(read, 1) == b""
    finally:
        os.close(read)


def test_the_folder_one_stands_in_is_not_searched_for_this_package(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "llama_server.py").write_text("raise SystemExit('not mine')")
    argv = python_module("pipeline.llama_server", "--help")
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GGUF" in done.stdout
