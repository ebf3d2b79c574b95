"""The virtual clock: hours pass in no time, hangs fail, threads still work."""

import asyncio
import gc
import socket
import threading

import pytest

from tests.support.clock import START_S, Hang, run_virtual


def test_sleeping_an_hour_moves_only_the_loops_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - START_S

    assert run_virtual(main()) == pytest.approx(3600)


def test_timers_fire_in_order_of_their_time() -> None:
    async def main() -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        await asyncio.gather(*(sleeper(s) for s in (30, 10, 20)))
        return woken

    assert run_virtual(main()) == [10, 20, 30]


def test_a_timeout_expires_in_virtual_time() -> None:
    async def main() -> None:
        async with asyncio.timeout(600):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run_virtual(main())


def test_a_hang_is_a_failure_that_names_who_waits() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Hang, match=r"no timer is set; waiting: .*test_clock\.py:\d+"):
        run_virtual(main())


def test_virtual_time_is_bounded() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Hang, match=r"60\.0 virtual seconds"):
        run_virtual(main(), max_virtual_s=60.0)


def test_threads_do_their_work_while_the_clock_stands_still() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        in_thread = threading.Event()
        go_on = threading.Event()

        def work() -> int:
            in_thread.set()
            go_on.wait(5)
            return threading.get_ident()

        async with asyncio.timeout(1):  # would expire if the clock jumped while the thread works
            other = asyncio.create_task(asyncio.to_thread(work))
            await asyncio.to_thread(in_thread.wait, 5)
            go_on.set()
            ident = await other
        return ident, loop.time() - START_S

    ident, elapsed_s = run_virtual(main())
    assert ident != threading.get_ident()
    assert elapsed_s == pytest.approx(0, abs=1e-3)


def test_a_plain_thread_may_wake_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        go_on = threading.Event()

        def work() -> None:
            go_on.wait(5)
            loop.call_soon_threadsafe(answer.set_result, "woken")

        thread = threading.Thread(target=work)
        thread.start()
        loop.call_soon(go_on.set)
        result = await answer
        thread.join()
        return result

    assert run_virtual(main()) == "woken"


def test_a_socket_may_wake_the_loop() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recv(ours, 5))
            loop.call_soon(theirs.sendall, b"hello")
            return await receiving

    assert run_virtual(main()) == b"hello"


def test_what_main_leaves_behind_is_cancelled_and_closed() -> None:
    seen: list[str] = []

    async def left_behind() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def main() -> None:
        task = asyncio.create_task(left_behind())
        await asyncio.to_thread(seen.append, "thread")
        assert not task.done()

    run_virtual(main())
    gc.collect()  # an unclosed loop, socket or coroutine would warn now, and warnings are errors
    assert seen == ["thread", "cancelled"]
    assert not [t for t in threading.enumerate() if t.name.startswith("virtual-loop")]


def test_an_error_of_main_comes_through() -> None:
    async def main() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        run_virtual(main())
