"""Run a command and write down the most memory it held: `python -m pipeline.selftest.measured FILE COMMAND...`.

A process of its own, and a small one, because the kernel counts what the parent held when it started a child as the child's:
measured by a parent that has read a table, every child is at least as large as that.
"""

import resource
import subprocess
import sys
from pathlib import Path

_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss (getrusage(2))


def main() -> int:
    noted, command = Path(sys.argv[1]), sys.argv[2:]
    code = subprocess.call(command)  # noqa: S603  (our own command line)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    noted.write_text(str(peak * _UNIT_BYTES))
    return code


if __name__ == "__main__":
    sys.exit(main())
