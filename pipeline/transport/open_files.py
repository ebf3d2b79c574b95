"""How many connections this process may hold open: the system's soft limit on open files is raised to what a run needs.

Each connection is an open file, and systems give a process a few hundred to begin with (macOS 256, most Linux shells 1,024),
though they let it have more, up to a hard limit.
"""

import sys

from pipeline.errors import SetupError

if sys.platform != "win32":  # where sockets are not bounded so
    import resource

# Input, journal, parts, log, a child's pipes, uploads, and what the libraries hold open.
_BESIDES = 200


def allow_connections(count: int) -> None:
    """Let this process hold so many connections at once. Raises SetupError where the system does not let it."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _BESIDES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        except (OSError, ValueError):  # macOS has a bound below its hard limit (kern.maxfilesperproc)
            hard = soft
        else:
            return
    raise SetupError(
        f"max_concurrency {count:,} takes {needed:,} open files, and this system lets a process have {hard:,}. "
        f"Set [limits] max_concurrency to {max(hard - _BESIDES, 1):,} or less, or raise the hard limit "
        f"(ulimit -Hn {needed}, LimitNOFILE= of a systemd unit, nofile in /etc/security/limits.conf)"
    )
