"""Answers that need not be asked for, or that stand until a better one comes.

A changed job or dataset takes the answers of before over by their content keys (`keep_answers`, `KnownAnswers`), identical
prompts may share one, and a row that is asked again keeps its old outcome unless the new one is better. Here too is how
outcomes are read back out of part files.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.failures import POLICIES
from pipeline.journal import Journal
from pipeline.part_reading import arrow_file
from pipeline.parts import METADATA_KEY, is_part_name, part_name
from pipeline.progress import Counters
from pipeline.records import (
    ANSWERED,
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    Outcome,
    Priced,
    Request,
    Status,
    ToolCall,
    Usage,
)
from pipeline.storage import Storage
from pipeline.totals import TOKEN_KINDS

# Which outcome a user would rather have; of equals the older stands.
_WORTH = {Status.OK: 4, Status.TRUNCATED: 3, Status.INVALID: 2, Status.BLOCKED: 1, Status.FAILED: 0}


def better(old: Outcome, new: Outcome) -> Outcome:
    """The outcome of a row that was asked again: the better one, with the bills and attempts of both."""
    stays, goes = (new, old) if _WORTH[new.status] > _WORTH[old.status] else (old, new)
    if goes.completion is not None:
        stays.earlier = [*stays.earlier, goes.completion.usage, *goes.earlier]
    stays.attempts += goes.attempts
    stays.maybe_paid += goes.maybe_paid
    return stays


@dataclass(slots=True, kw_only=True)
class KnownAnswers:
    """The answers of one run that need not be asked for. `free` is the price of one that was paid for by an identical prompt.

    `away` is entered while a row waits for the answer to an identical one.
    """

    journal: Journal
    counters: Counters
    dedupe: bool
    free: Priced
    away: Callable[[], AbstractContextManager[None]] = nullcontext
    _asking: dict[str, asyncio.Event] = field(default_factory=dict)

    async def find(self, request: Request, old: Outcome | None) -> Outcome | None:
        """The answer to this question, or None where the caller must ask, and then say so with `asked`.

        With `dedupe` it waits while an identical prompt is being asked. `old` is there where the row is asked again: then only
        a better answer will do.
        """
        kept = self.journal.kept
        if old is None and kept.any and (outcome := kept.take(request.key, request.index, request.row_id)):
            self.counters.reused += 1
            if self.dedupe:
                self._share(request.key, outcome)
            return outcome
        if not self.dedupe:
            return None
        while (asking := self._asking.get(request.key)) is not None:
            with self.away():
                await asking.wait()
        outcome = kept.shared(request.key)
        if outcome is not None and (old is None or outcome.status is Status.OK):
            self.counters.deduplicated += 1
            return self._of_identical(request, outcome)
        self._asking[request.key] = asyncio.Event()
        return None

    def asked(self, key: str, result: object) -> None:
        """Say what came of a question that had no known answer; who waits for it has it then, or asks."""
        if not self.dedupe:
            return
        if isinstance(result, Outcome):
            self._share(key, result)
        self._asking.pop(key).set()

    def _share(self, key: str, outcome: Outcome) -> None:
        failure = outcome.failure
        if outcome.status is not Status.FAILED or (failure is not None and _is_certain(failure.kind)):
            self.journal.kept.share(key, outcome)

    def _of_identical(self, request: Request, outcome: Outcome) -> Outcome:
        """The answer as another row has it: nothing was sent for it, and nothing billed."""
        if outcome.completion is not None:
            outcome.completion.usage = Usage(0, 0, 0, 0, 0, 0, priced=self.free)
        return Outcome(
            index=request.index,
            row_id=request.row_id,
            status=outcome.status,
            key=outcome.key,
            completion=outcome.completion,
            failure=outcome.failure,
            fields=outcome.fields,
            http_status=outcome.http_status,
            run_id=outcome.run_id,
            response=outcome.response,
        )


def _is_certain(kind: FailureKind) -> bool:
    """Whether to ask the same once more could only fail the same way."""
    policy = POLICIES[kind]
    return not policy.retry and policy.ends == "row" and kind is not FailureKind.INTERNAL


def read_outcomes(part: bytes) -> list[Outcome]:
    """The outcomes in a part file, in order, each with the price it had. Raises OSError or ArrowException for a damaged one.

    `maybe_paid` is 0: no column tells it, the part's totals do.
    """
    table = pq.read_table(arrow_file(part), page_checksum_verification=True)
    metadata = json.loads((table.schema.metadata or {})[METADATA_KEY])
    values = {name: _values(table[name]) for name in table.column_names}
    fields: list[str] = metadata["answer_fields"]
    return [
        _outcome({name: column[place] for name, column in values.items()}, fields)
        for place in range(table.num_rows)
    ]


def _values(column: "pa.ChunkedArray[Any]") -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "us":
        column = column.cast(pa.int64())
    return column.to_pylist()


def _outcome(row: dict[str, Any], fields: list[str]) -> Outcome:
    status = Status(row["status"])
    filtered = row["finish_reason"] == FinishReason.CONTENT_FILTER
    answered = status in ANSWERED or filtered
    return Outcome(
        index=row["input_index"],
        row_id=row["row_id"],
        status=status,
        key=row["key"],
        completion=_completion(row, status) if answered else None,
        failure=_failure(row, answered=answered) if row["error_kind"] is not None else None,
        fields={name: row[name] for name in fields} if status is Status.OK else {},
        http_status=row["http_status"],
        attempts=row["attempts"],
        started_at_us=row["started_at"],
        latency_ms=row["latency_ms"],
        first_token_ms=row["first_token_ms"],
        queue_ms=row["queue_ms"],
        run_id=row["run_id"],
        response=row.get("response"),
    )


def _completion(row: dict[str, Any], status: Status) -> Completion:
    calls = row["tool_calls"]
    return Completion(
        content=row["content"],
        finish_reason=row["finish_reason"],
        usage=Usage(
            **{name: row[name] for name in TOKEN_KINDS},
            raw=row["usage"],
            priced=Priced(row["cost"], row["currency"], row["price_version"]),
        ),
        model=row["model"],
        request_id=row["request_id"],
        reasoning_content=row["reasoning_content"],
        tool_calls=None if calls is None else [ToolCall(**call) for call in calls],
        choices=row["choices"],
        partial=status is Status.TRUNCATED and row["finish_reason"] != FinishReason.LENGTH,
    )


def _failure(row: dict[str, Any], *, answered: bool) -> Failure:
    return Failure(
        kind=FailureKind(row["error_kind"]),
        code=row["error_code"],
        message=row["error_message"],
        http_status=row["http_status"],
        request_id=None if answered else row["request_id"],
    )


def merged(part: bytes, newer: dict[int, Outcome]) -> Iterator[Outcome]:
    """The outcomes of a part that stands and is being written anew: those settled since win."""
    for outcome in read_outcomes(part):
        yield newer.get(outcome.index, outcome)


def keep_answers(journal: Journal, results: Storage, rows_per_part: int) -> int:
    """Move every answer of the folder into the journal, to be found by its question; say how many are kept there now.

    Part by part, each in one transaction before its file goes. The journal's manifest says `moving` meanwhile, so that a killed
    run's files that were moved already are not taken for parts; call it again to go on.
    """
    journal.write_manifest({"moving": "yes"})
    recorded = journal.parts()
    for name in results.stamps():
        if is_part_name(name) and name not in {part_name(number) for number in recorded}:
            results.remove(name)
    for number, part in recorded.items():
        first = number * rows_per_part
        newer = journal.outcomes(first, first + part.rows)
        journal.keep_part(part, first, merged(results.read(part_name(number)), newer))
        results.remove(part_name(number))
    journal.keep_outcomes()
    journal.write_manifest({"moving": ""})
    return journal.kept.count()
