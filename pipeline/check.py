"""`promptmill check`: everything that can be known of a job before anything is sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import orjson

from pipeline.dataset import DatasetScan
from pipeline.failures import one_line
from pipeline.plan import Plan, missing_columns
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure, Request, Row
from pipeline.tokens import count_messages

EXAMPLES = 5
_SHOWN_CHARS = 2_000


@dataclass(slots=True, kw_only=True)
class Report:
    """What check found. `problems` stop a run or spoil rows; `notes` are worth knowing.

    `requests` are the first few as they would be sent. `bad_rows` counts rows that would end as `failed` unsent.
    """

    rows: int
    rendered: int = 0
    bad_rows: int = 0
    bad_examples: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    prompt_tokens: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not self.problems and not self.bad_rows


def check_plan(
    plan: Plan,
    scan: DatasetScan,
    *,
    limit: int | None,
    show: int,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Render and encode every row (or the first `limit`) and look for what would go wrong. Sends nothing."""
    report = Report(rows=scan.rows)
    for row in islice(plan.dataset.rows(), limit):
        request = _request(plan, row)
        if isinstance(request, Failure):
            report.bad_rows += 1
            if len(report.bad_examples) < EXAMPLES:
                report.bad_examples.append(request.message)
            continue
        report.rendered += 1
        report.prompt_tokens += request.tokens_estimate
        if len(report.requests) < show:
            report.requests.append(request)
        if on_progress and report.rendered % 10_000 == 0:
            on_progress(report.rendered)
    for name in missing_columns(plan, scan):
        if report.bad_rows:
            known = ", ".join(scan.columns[:20]) or "none"
            report.problems.append(
                f"the prompt needs the column {name!r}, which no row has; the columns are: {known}"
            )
        else:
            report.notes.append(f"no row has the column {name!r}; the template does without it")
    if scan.empty_lines:
        report.notes.append(f"{scan.empty_lines:,} empty lines are skipped")
    if changed := plan.dataset.changed():
        report.problems.append(changed)
    report.notes += _notes(plan)
    return report


def exact_tokens(request: Request) -> int:
    """The prompt tokens of a request by the Qwen vocabulary and the provider's formula."""
    return count_messages(orjson.loads(request.body)["messages"])


def shown_request(request: Request) -> str:
    """A request's body, indented; very long ones are cut, and say so."""
    text = orjson.dumps(orjson.loads(request.body), option=orjson.OPT_INDENT_2).decode()
    if len(text) <= _SHOWN_CHARS:
        return text
    return f"{text[:_SHOWN_CHARS]}\n... ({len(text):,} characters in all)"


def _request(plan: Plan, row: Row) -> Request | Failure:
    prompt = plan.renderer.render(row)
    if isinstance(prompt, Failure):
        return prompt
    try:
        return plan.encode(prompt)
    except EncodeError as error:
        return plan.renderer.not_encodable(row, error)


def _notes(plan: Plan) -> Iterator[str]:
    target = plan.target
    if plan.job.file.prompt.format is not None:
        models: set[str] = set()
        for row in islice(plan.dataset.rows(), 1_000):
            body = row.columns.get("body")
            model = body.get("model") if isinstance(body, dict) else None
            if isinstance(model, str) and model != target.model_name:
                models.add(one_line(model, 80))
        if models:
            named = ", ".join(sorted(models)[:3])
            yield f"lines name the model {named}; the job's {target.model_name} is asked instead"
    if target.model is None and target.provider.models:
        yield f"the catalogue does not know {target.model_name} at {target.provider.name}: no price, no default limits"
    if target.requests_per_minute is None and target.tokens_per_minute is None and target.starts is None:
        yield "no limit of requests or tokens a minute is known: set [limits], or rely on max_concurrency alone"
