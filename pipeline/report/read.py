"""A run folder read for a report: what it says of itself, and all its rows in one pass, some parts at a time."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from pipeline import catalog
from pipeline.billing import outcome_costs
from pipeline.errors import JobError, RunFolderError
from pipeline.history import Event, Moment, read_history
from pipeline.journal import FILE_NAME
from pipeline.journal_view import JournalView, view
from pipeline.labels import gold_name
from pipeline.masking import Secrets, without_url_secrets
from pipeline.part_reading import reading_part
from pipeline.parts import DEFAULT_ROWS_PER_PART, part_name, part_names, result_columns
from pipeline.pricing import Price, from_nano
from pipeline.records import Outcome, Route
from pipeline.report.facts import About, ExtremeRow, LabelFacts, RepricedFacts, RunFacts
from pipeline.report.foreseen import read_estimate
from pipeline.report.gather import COLUMNS, GOLD, LABEL, Gatherer
from pipeline.repricing import elsewhere
from pipeline.results import results_of
from pipeline.run_folder import RUN_FILE
from pipeline.run_lock import is_held
from pipeline.s3 import S3Settings
from pipeline.storage import Storage

# So many rows are summed at once: enough that a part more costs little, and some tens of megabytes.
_ROWS_AT_ONCE = 128 * 1024
_CONTENT_CHARS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How run folders are read. `secrets` are taken out of what servers and models said; `load` gives a provider's catalogue.

    `elsewhere` (`model=qwen-flash,route=batch-chat`) asks what the answers would have cost there.
    """

    s3: S3Settings
    secrets: Secrets
    load: Callable[[str], catalog.Provider] = catalog.load
    elsewhere: str | None = None


def read_run(folder: Path, how: Reading) -> RunFacts:
    """The facts of one run folder, as far as it went.

    Raises RunFolderError where it is none, or cannot be read, JobError where `elsewhere` names what there is not.
    """
    running = is_held(folder)
    seen = view(folder)
    said = _Said(folder, how.load)
    results = results_of(folder, seen.manifest, how.s3)
    try:
        names = part_names(results)
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise RunFolderError(f"the results in {results.where} cannot be read: {error}") from error
    # While the run goes on, a part may have been finished since the journal was read: then its rows count already.
    unwritten = [outcome for outcome in seen.outcomes if _part_of(outcome.index, seen) not in names]
    facts = RunFacts(about=_about(folder, seen, said, running=running, open_rows=len(unwritten)))
    response = said.section("response")
    if response.get("labels"):
        facts.labels = LabelFacts(labels=tuple(response["labels"]))
    columns = list(COLUMNS)
    if how.elsewhere is not None:
        facts.repriced = RepricedFacts(elsewhere(how.elsewhere, said.here(folder), how.load))
        columns += [name for name in facts.repriced.where.columns if name not in columns]
    gatherer = Gatherer(facts)
    for table in _batches(results, names, columns, response):
        gatherer.add(pl.DataFrame(table))
    if unwritten:
        gatherer.add(pl.DataFrame(_open_rows(unwritten, columns, said)))
    facts.moments_kept, facts.events = _history(folder)
    facts.estimate = read_estimate(folder)
    _add_contents(facts, results, names, seen, unwritten)
    _clear(facts, how.secrets)
    return facts


class _Said:
    """run.json, as far as it can be read: a killed run may have left none."""

    def __init__(self, folder: Path, load: Callable[[str], catalog.Provider]) -> None:
        self._load = load
        try:
            content = json.loads((folder / RUN_FILE).read_bytes())
        except (OSError, ValueError):
            content = None
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}

    def section(self, name: str) -> dict[str, Any]:
        """A section of the job; empty where it is not known."""
        job = self.content.get("job")
        section = job.get(name) if isinstance(job, dict) else None
        return section if isinstance(section, dict) else {}

    @property
    def summary(self) -> dict[str, Any]:
        return self.content.get("summary") or {}

    @property
    def route(self) -> str:
        return str(self.section("model").get("route", Route.REALTIME))

    def provider(self) -> catalog.Provider | None:
        try:
            return self._load(self.section("model").get("provider", ""))
        except JobError:  # a run of before, of a provider that has no catalogue any more
            return None

    def here(self, folder: Path) -> tuple[str, str, str]:
        """Provider, model and route. Raises RunFolderError where they are not known."""
        model = self.section("model")
        if not model:
            raise RunFolderError(
                f"{folder / RUN_FILE} is missing or damaged, so what the run was asked of is not known. Run the job's command "
                "again: it writes the file anew"
            )
        return str(model["provider"]), str(model["name"]), self.route

    def price(self) -> Price | None:
        """The price by which the run pays, as it wrote it down; None where it is not known."""
        try:
            return Price.from_json(self.content["prices"][-1]["price"])
        except (LookupError, TypeError, ArithmeticError):  # there is none, or the file is damaged
            return None


def _history(folder: Path) -> tuple[list[Moment], list[Event]]:
    try:
        return read_history(folder / FILE_NAME)
    except sqlite3.Error as error:
        raise RunFolderError(f"{folder / FILE_NAME} cannot be read: {error}") from error


def _about(folder: Path, seen: JournalView, said: _Said, *, running: bool, open_rows: int) -> About:
    model, limits, summary = said.section("model"), said.section("limits"), said.summary
    provider = said.provider()
    known = provider.model(model.get("name", "")) if provider else None
    of_model = known.limits if known else catalog.Limits()
    paid, maybe = seen.spend
    currency = summary.get("currency")
    is_priced = said.content.get("price_version") is not None
    if currency is None and is_priced and provider is not None:
        currency = provider.currency
    cap = said.section("budget").get("max_cost")
    started = said.content.get("started")
    return About(
        folder=str(folder),
        job=seen.manifest.get("name", folder.name),
        provider=model.get("provider"),
        model=model.get("name"),
        route=said.route if model else None,
        started=None if started is None else datetime.fromisoformat(started),
        running=running,
        exit_code=None if running else summary.get("exit_code"),
        exit_reason=None if running else summary.get("exit_reason"),
        elapsed_s=None if running else summary.get("elapsed_s"),
        rows=int(seen.manifest.get("rows", "0")),
        open_rows=open_rows,
        requests_per_minute=limits.get("requests_per_minute") or of_model.requests_per_minute,
        tokens_per_minute=limits.get("tokens_per_minute") or of_model.tokens_per_minute,
        max_concurrency=limits.get("max_concurrency"),
        max_cost=None if cap is None else Decimal(str(cap)),
        currency=currency,
        spent=from_nano(paid + maybe) if is_priced else None,
        maybe=from_nano(maybe) if is_priced else None,
        maybe_paid=summary.get("maybe_paid"),
    )


def _batches(
    results: Storage, names: list[str], columns: list[str], response: dict[str, Any]
) -> Iterator[pa.Table]:
    """All rows of the parts, in tables of many, each with the columns of a `Gatherer`."""
    waiting: list[pa.Table] = []
    rows = 0
    for name in names:
        with reading_part(results, name) as part:
            there = part.schema_arrow.names
            wanted = [column for column in columns if column in there]
            gold = None
            if response.get("labels") and LABEL in there:
                wanted.append(LABEL)
                gold = _gold(part.schema_arrow, response.get("gold"))
            table = part.read(columns=wanted if gold is None else [*wanted, gold])
        table = table.replace_schema_metadata(None)
        if gold is not None:
            known = table[gold].cast(pa.string())
            table = table.select(wanted).append_column(GOLD, known)
        waiting.append(table)
        rows += table.num_rows
        if rows >= _ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting)


def _gold(schema: pa.Schema, gold: str | None) -> str | None:
    """The column of known labels among the results, if it is there and holds what can be compared."""
    name = gold and gold_name(gold, schema.names)
    if not name or name not in schema.names or pa.types.is_nested(schema.field(name).type):
        return None
    return name


class _Terms(NamedTuple):
    currency: str | None
    price_version: str | None
    route: str


def _open_rows(outcomes: list[Outcome], names: list[str], said: _Said) -> pa.Table:
    """Rows that have their outcome and no part yet, as a part would have them; their known labels follow with the part."""
    by = said.price()
    currency, version = (by.currency, by.version) if by is not None else (None, None)
    terms = _Terms(currency, version, said.route)
    arrays = result_columns(outcomes, outcome_costs(by, outcomes), terms)
    columns = {name: arrays[name] for name in names}
    if said.section("response").get("labels"):
        columns[LABEL] = pa.array([outcome.fields.get(LABEL) for outcome in outcomes], pa.string())
    return pa.table(columns)


def _part_of(index: int, seen: JournalView) -> str:
    return part_name(index // int(seen.manifest.get("rows_per_part", DEFAULT_ROWS_PER_PART)))


def _add_contents(
    facts: RunFacts, results: Storage, names: list[str], seen: JournalView, unwritten: list[Outcome]
) -> None:
    """Read what the rows that stand out answered: of these few alone, since answers are most of what parts hold."""
    contents = {o.index: o.completion.content for o in unwritten if o.completion is not None}
    wanted = {row.input_index for extremes in (facts.slowest, facts.dearest) for row in extremes.rows}
    by_part: dict[str, list[int]] = {}
    for index in wanted - contents.keys():
        by_part.setdefault(_part_of(index, seen), []).append(index)
    for name, indexes in by_part.items():
        if name not in names:
            continue
        with reading_part(results, name) as part:
            table = part.read(columns=["input_index", "content"])
        rows = pl.DataFrame(table).filter(pl.col("input_index").is_in(indexes))
        contents.update(rows.iter_rows())
    for extremes in (facts.slowest, facts.dearest):
        extremes.rows = [_with_content(row, contents.get(row.input_index)) for row in extremes.rows]


def _clear(facts: RunFacts, secrets: Secrets) -> None:
    """Take keys and signed addresses out of all text that others wrote."""

    def cleared(text: str | None) -> str | None:
        return text and without_url_secrets(secrets.masked(text))

    for key, one in facts.failures.items():
        facts.failures[key] = one._replace(message=cleared(one.message), row_id=cleared(one.row_id) or "")
    for extremes in (facts.slowest, facts.dearest):
        extremes.rows = [
            row._replace(content=cleared(row.content), row_id=cleared(row.row_id) or "")
            for row in extremes.rows
        ]


def _with_content(row: ExtremeRow, content: str | None) -> ExtremeRow:
    return row._replace(content=content and content[:_CONTENT_CHARS])
