"""Prompt tokens by the Qwen vocabulary and the provider's formulas: of one prompt, and of all rows of a dataset on all cores.

Rows are read here and handed to worker processes in batches, which render and count them: counting does not let go of the
interpreter's lock, so threads would take turns. The first rows are counted where they were read. Nothing is sent.
"""

import multiprocessing
import os
import signal
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from pipeline.plan import Plan, make_plan
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure, Prompt, Row
from pipeline.tokens import count_messages, count_text
from pipeline.vision_tokens import (
    DEFAULT_SYSTEM_TOKENS,
    gives_default_system,
    numbers_pictures,
    tools_tokens,
)

# Stand in for a count: the row cannot become a request, or its prompt stood before and its answer is shared.
UNSENDABLE, REPEATED = -1, -2
_BATCH_ROWS = 256
# Workers take a second to start: the first so many characters of rows, a second's work, are counted without them.
_WORTH_WORKERS_CHARS = 16_000_000
_AHEAD = 3  # batches a worker, so that none waits for the reader
_EXAMPLES = 3


def exact_tokens(plan: Plan, prompt: Prompt) -> int:
    """The prompt tokens by the Qwen vocabulary and the provider's formulas.

    Text, pictures and tools come out as billed, within a token, for the models whose vocabulary is Qwen's up to 3. Pictures
    behind URLs, videos and documents are guesses, and what a search adds is not in it.
    """
    model, tools = plan.target.model_name, prompt.params.get("tools") or ()
    tokens = count_messages(prompt.messages) + prompt.media_tokens + tools_tokens(tools)
    if prompt.messages[0]["role"] != "system" and (tools or gives_default_system(model)):
        tokens += DEFAULT_SYSTEM_TOKENS
    if numbers_pictures(model):
        pictures = sum(part.get("type") == "image_url" for part in _parts(prompt))
        tokens += sum(count_text(f"Picture {n}: ") for n in range(1, pictures + 1))
    return tokens


def _parts(prompt: Prompt) -> Iterator[dict[str, Any]]:
    for message in prompt.messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


@dataclass(slots=True)
class Counts:
    """Figures of rows, in their order.

    `tokens` are the prompt's, or UNSENDABLE or REPEATED; `most` is the most that the answer may be, in tokens, -1 where nothing
    bounds it. `media` and `problems` are of all rows: media's part of the tokens, and why the first few cannot be sent.
    """

    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    most: "array[int]" = field(default_factory=lambda: array("q"))
    media: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, more: "Counts") -> None:
        self.tokens.extend(more.tokens)
        self.most.extend(more.most)
        self.media += more.media
        self.problems += more.problems[: _EXAMPLES - len(self.problems)]


class _Batch(NamedTuple):
    counts: Counts
    keys: list[str]


def count_rows(
    plan: Plan,
    rows: Iterable[Row],
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Count the prompts of rows. `on_progress` hears how many rows are counted and their tokens; there is a process a
    core, or `workers` of them.

    Raises DatasetError as reading does.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    seen: set[str] | None = set() if plan.job.file.response.dedupe else None
    counts = Counts()
    tokens = 0
    for batch in _counted(plan, _batches(rows), workers):
        if seen is not None:
            _mark_repeated(batch, seen)
        counts.add(batch.counts)
        tokens += sum(count for count in batch.counts.tokens if count > 0)
        if on_progress:
            on_progress(len(counts.tokens), tokens)
    return counts


def row_chars(plan: Plan, row: Row) -> int:
    """How long a row is, in characters of the columns that its prompt needs: known without rendering it.

    UNSENDABLE where it could not be read.
    """
    if row.problem is not None:
        return UNSENDABLE
    names = plan.renderer.columns & row.columns.keys()
    return sum(len(str(row.columns[name])) for name in names or row.columns)


def _chars(row: Row) -> int:
    return sum(len(value) if isinstance(value, str) else 8 for value in row.columns.values())


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH_ROWS)):
        yield batch


def _mark_repeated(batch: _Batch, seen: set[str]) -> None:
    tokens = batch.counts.tokens
    for place, key in enumerate(batch.keys):
        if tokens[place] >= 0:
            if key in seen:
                tokens[place] = REPEATED
            seen.add(key)


def _counted(plan: Plan, batches: Iterator[list[Row]], workers: int) -> Iterator[_Batch]:
    """The counts of batches, in order: the first here, all others in workers."""
    chars = 0
    for batch in batches:
        yield _count(plan, batch)
        chars += sum(map(_chars, batch))
        if workers > 1 and chars >= _WORTH_WORKERS_CHARS:
            break
    if (following := next(batches, None)) is not None:
        yield from _in_workers(plan, chain([following], batches), workers)


def _in_workers(plan: Plan, batches: Iterable[list[Row]], workers: int) -> Iterator[_Batch]:
    """The counts of batches, in order; only a few are out at once, so that memory does not grow with their number."""
    # Not forked: this process may have threads, of Arrow's, that a fork would leave half alive.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(plan.job, plan.target))
    with pool:
        out: deque[Future[_Batch]] = deque()
        try:
            for batch in batches:
                out.append(pool.submit(_count_here, batch))
                if len(out) > workers * _AHEAD:
                    yield out.popleft().result()
            while out:
                yield out.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


_here: list[Plan] = []


def _begin_worker(job: Any, target: Any) -> None:
    # A Ctrl-C goes to all processes of a terminal: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here.append(make_plan(job, target))


def _count_here(rows: list[Row]) -> _Batch:
    return _count(_here[0], rows)


def _count(plan: Plan, rows: list[Row]) -> _Batch:
    batch = _Batch(Counts(), [])
    counts = batch.counts
    by_key = plan.job.file.response.dedupe
    usual = plan.worst_case.answer_tokens(plan.params) or -1
    for row in rows:
        prompt = plan.renderer.render(row)
        key = ""
        if not isinstance(prompt, Failure):
            try:
                key = plan.encode(prompt).key
            except EncodeError as error:
                prompt = plan.renderer.not_encodable(row, error)
        if by_key:
            batch.keys.append(key)
        if isinstance(prompt, Failure):
            counts.tokens.append(UNSENDABLE)
            counts.most.append(0)
            if len(counts.problems) < _EXAMPLES:
                counts.problems.append(prompt.message)
            continue
        counts.tokens.append(exact_tokens(plan, prompt))
        counts.most.append(
            usual if prompt.params is plan.params else plan.worst_case.answer_tokens(prompt.params) or -1
        )
        counts.media += prompt.media_tokens
    return batch
