"""A run's figures as a Prometheus text file, for node_exporter's textfile collector.

Written whole or not at all, every few seconds while the run goes on and once at its end; it holds figures and names alone,
never a prompt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.progress import Counters, Snapshot
from pipeline.summary import RunSummary


@dataclass(slots=True, kw_only=True)
class MetricsFile:
    """One run's metrics in one file. `labels` stand on each; `last_success_s` is the Unix time of the last exit 0, if any."""

    path: Path
    labels: Mapping[str, str]
    currency: str | None
    started_s: float
    last_success_s: float | None

    def write(self, snapshot: Snapshot, counters: Counters) -> None:
        """Write the figures of a run that goes on. Raises OSError where the file cannot be written."""
        limits = snapshot.limits
        per_minute = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
        known = {what: limit for what, limit in per_minute.items() if limit is not None}
        chosen = {"requests": limits.chosen_requests_per_minute, "tokens": limits.chosen_tokens_per_minute}
        paces = {what: pace for what, pace in chosen.items() if pace is not None}
        self._put(
            [
                *self._figures(counters),
                self._gauge("running", "1 while a run goes on", 1),
                self._gauge("in_flight", "Requests in flight", limits.in_flight),
                self._gauge("concurrency_limit", "Requests that may be in flight", limits.max_concurrency),
                self._gauges("limit_per_minute", "The limits of the account", "what", known),
                self._gauges("pace_per_minute", "What may go at present", "what", paces),
                self._gauge("cooling_down", "1 while nothing is sent", int(limits.cooling_s > 0)),
            ]
        )

    def close(self, summary: RunSummary, counters: Counters, ended_s: float) -> None:
        """Write the last figures, with how the run ended. Raises OSError where the file cannot be written."""
        if summary.exit_code == 0:
            self.last_success_s = ended_s
        ending = [
            self._gauge("running", "1 while a run goes on", 0),
            self._gauge("exit_code", "Exit code of the last run", summary.exit_code),
            self._gauge("duration_seconds", "How long the last run took", summary.elapsed_s),
            self._gauge("last_end_timestamp_seconds", "When the last run ended, Unix time", ended_s),
        ]
        if self.last_success_s is not None:
            about = "When a run last ended with exit code 0, Unix time"
            ending.append(self._gauge("last_success_timestamp_seconds", about, self.last_success_s))
        self._put([*self._figures(counters), *ending])

    def _figures(self, counters: Counters) -> Iterator[Any]:
        totals = counters.sum_up()
        yield self._gauge("rows_wanted", "Rows of the input", counters.rows)
        yield self._gauges("rows", "Rows with their outcome, by status", "status", totals.status)
        yield self._gauges("tokens", "Tokens billed, by kind", "kind", totals.tokens)
        if totals.known_cost is not None and self.currency is not None:
            cost = {self.currency: float(totals.known_cost)}
            yield self._gauges("cost", "Cost of all rows so far", "currency", cost)
        yield self._gauge(
            "maybe_paid", "Requests that may have been paid without an answer", totals.maybe_paid
        )
        yield self._gauge("sent", "Requests sent by this run", counters.sent)
        failed = counters.failed_attempts
        yield self._gauges("failed_attempts", "Attempts of this run that failed, by kind", "kind", failed)
        yield self._gauge("start_timestamp_seconds", "When this run started, Unix time", self.started_s)

    def _gauge(self, name: str, about: str, value: float) -> Any:
        return self._gauges(name, about, "", {"": value})

    def _gauges(self, name: str, about: str, label: str, values: Mapping[Any, float]) -> Any:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  (40 ms that most runs need not spend)

        names = [*self.labels, *([label] if label else [])]
        family = GaugeMetricFamily(f"promptmill_{name}", about, labels=names)
        for kind, value in values.items():
            family.add_metric([*self.labels.values(), *([str(kind)] if label else [])], value)
        return family

    def _put(self, families: list[Any]) -> None:
        from prometheus_client import CollectorRegistry, write_to_textfile  # noqa: PLC0415  (as above)

        class Collected:
            def collect(self) -> list[Any]:
                return families

        registry = CollectorRegistry()
        registry.register(Collected())
        write_to_textfile(str(self.path), registry)
