"""The simulator as a process of its own: `python -m pipeline.simulator --json-settings '{...}'`.

It prints one JSON line, {"url": ..., "root": ...}, when it listens, and ends on SIGTERM or when its
stdin closes: so it never outlives the process that started it, not even one that was killed. SIGINT is left
to that process, which may still have requests to finish.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable

import orjson

from pipeline.errors import PromptmillError
from pipeline.simulator.server import Simulator, serve
from pipeline.simulator.settings import Settings, settings_from_json

try:
    import uvloop
except ImportError:  # not to be had on Windows
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_loop = uvloop.new_event_loop


def run_until_stopped(
    settings: Settings, *, announce: Callable[[Simulator], None], with_parent: bool
) -> Simulator:
    """Run a simulator until SIGTERM, and with a parent until stdin closes, else until SIGINT (Ctrl-C)."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_run(settings, announce, with_parent))


async def _run(settings: Settings, announce: Callable[[Simulator], None], with_parent: bool) -> Simulator:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if with_parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A thread, because stdin may be anything (a pipe, a file, a terminal) and a loop watches only some
        # of them.
        threading.Thread(target=_wait_for_end_of_stdin, args=(loop, stop), daemon=True).start()
    else:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    # What was loaded stays: collecting it again and again would cost a third of the throughput at many
    # connections.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return await serve(settings, announce=announce, stop=stop)


def _wait_for_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


def _announce(simulator: Simulator) -> None:
    line = orjson.dumps({"url": simulator.base_url, "root": simulator.url, "pid": os.getpid()})
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.simulator", description=__doc__)
    parser.add_argument("--json-settings", default="{}", help="a JSON object of settings")
    try:
        settings = settings_from_json(parser.parse_args(arguments).json_settings)
        run_until_stopped(settings, announce=_announce, with_parent=True)
    except PromptmillError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
