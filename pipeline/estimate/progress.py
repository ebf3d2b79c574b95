"""How far the counting is: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.run_log import Notes

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def counting_bar(
    notes: Notes, what: str, rows: int, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Yields what to tell of the rows and tokens counted so far, of `rows` in all; the bar goes when the block ends."""
    if notes.quiet:
        yield lambda done, tokens: None
    elif notes.format == "text" and notes.stream.isatty():
        with _bar(Console(file=notes.stream)) as bar:
            task = bar.add_task(what, total=rows, speed="")
            began_s = clock()

            def draw(done: int, tokens: int) -> None:
                took_s = clock() - began_s
                speed = f"{tokens / took_s / 1e6:.1f} M tokens/s" if tokens and took_s > 0 else ""
                bar.update(task, completed=done, speed=speed)

            yield draw
    else:
        said_s = clock()

        def say(done: int, tokens: int) -> None:
            nonlocal said_s
            if (now_s := clock()) - said_s >= _LINE_EVERY_S:
                said_s = now_s
                notes.say(f"{what}: {done:,}/{rows:,} rows, {tokens:,} tokens")

        yield say


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows  {task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
