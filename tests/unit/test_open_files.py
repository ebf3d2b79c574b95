"""Open files, in processes of their own: a limit that was lowered stays so."""

import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="Windows does not bound open files so")

PROGRAM = """
import asyncio, resource, sys
from pipeline.errors import SetupError
from pipeline.transport import Endpoint, open_transport

soft, hard, connections, core = *map(int, sys.argv[1:4]), sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

async def main():
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", headers={}, max_connections=connections)
    await open_transport(core, endpoint).aclose()

try:
    asyncio.run(main())
except SetupError as error:
    print(error, error.exit_code)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def opened(*, soft: int, hard: int, connections: int, core: str = "fast") -> list[str]:
    argv = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(connections), core]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("core", ["fast", "httpx"])
def test_the_soft_limit_is_raised_to_what_the_connections_need(core: str) -> None:
    assert opened(soft=256, hard=4096, connections=2000, core=core) == ["2200"]


def test_a_soft_limit_that_is_enough_is_left_alone() -> None:
    assert opened(soft=1024, hard=4096, connections=64) == ["1024"]


def test_a_hard_limit_below_the_need_is_said_with_what_to_do() -> None:
    said, soft = opened(soft=256, hard=1024, connections=2000)
    assert "max_concurrency 2,000 takes 2,200 open files" in said
    assert "lets a process have 1,024" in said
    assert "max_concurrency to 824 or less" in said
    assert said.endswith(" 2")
    assert soft == "256"
