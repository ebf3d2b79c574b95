"""`promptmill check`: everything that can be known of a job before anything is sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import orjson

from pipeline.counting import exact_tokens
from pipeline.dataset import DatasetScan
from pipeline.failures import one_line
from pipeline.jobspec import key_variable
from pipeline.masking import without_url_secrets
from pipeline.model_rules import refused_params
from pipeline.plan import Plan, missing_columns
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure, Prompt, Request, Row

EXAMPLES = 5
_SHOWN_CHARS = 2_000
_COUNTED_ROWS = 1_000
_SHOWN_URL_CHARS = 60


class Shown(NamedTuple):
    """A row's prompt and the request made of it."""

    prompt: Prompt
    request: Request


@dataclass(slots=True, kw_only=True)
class Report:
    """What check found. `problems` stop a run or spoil rows; `notes` are worth knowing.

    `requests` are the first few as they would be sent. `bad_rows` counts rows that would end as `failed` unsent.
    """

    rows: int
    rendered: int = 0
    bad_rows: int = 0
    bad_examples: list[str] = field(default_factory=list)
    requests: list[Shown] = field(default_factory=list)
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
    estimated = counted = counted_estimates = 0
    refused: dict[str, None] = dict.fromkeys(plan.problems())
    for row in islice(plan.dataset.rows(), limit):
        shown = _request(plan, row)
        if isinstance(shown, Failure):
            report.bad_rows += 1
            if len(report.bad_examples) < EXAMPLES:
                report.bad_examples.append(shown.message)
            continue
        if shown.prompt.params is not plan.params:
            refused |= dict.fromkeys(refused_params(plan.target.model, shown.prompt.params))
        report.rendered += 1
        estimated += shown.request.tokens_estimate
        if report.rendered <= _COUNTED_ROWS:
            counted += exact_tokens(plan, shown.prompt)
            counted_estimates += shown.request.tokens_estimate
        if len(report.requests) < show:
            report.requests.append(shown)
        if on_progress and report.rendered % 10_000 == 0:
            on_progress(report.rendered)
    # Counting costs 50 us a prompt: the first are counted, the others taken to be as far from their estimate.
    report.prompt_tokens = round(estimated * counted / counted_estimates) if counted_estimates else 0
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
    report.problems += refused
    report.notes += _notes(plan)
    return report


def shown_request(request: Request) -> str:
    """A request's body, indented. Media within it are shortened, and so are very long ones, and both say so.

    What signs an address, so that whoever reads it could use it, is masked.
    """
    body = _media_shortened(orjson.loads(request.body))
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
    if len(text) <= _SHOWN_CHARS:
        return text
    return f"{text[:_SHOWN_CHARS]}\n... ({len(text):,} characters in all)"


def _media_shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _media_shortened(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_media_shortened(one) for one in value]
    if isinstance(value, str) and value.startswith("data:") and len(value) > _SHOWN_URL_CHARS:
        return f"{value[:_SHOWN_URL_CHARS]}... ({len(value):,} characters)"
    return without_url_secrets(value) if isinstance(value, str) else value


def _request(plan: Plan, row: Row) -> Shown | Failure:
    prompt = plan.renderer.render(row)
    if isinstance(prompt, Failure):
        return prompt
    try:
        return Shown(prompt, plan.encode(prompt))
    except EncodeError as error:
        return plan.renderer.not_encodable(row, error)


def _notes(plan: Plan) -> Iterator[str]:
    target = plan.target
    yield from target.warnings
    variable = key_variable(plan.job, target.provider)
    if variable is not None and "Authorization" not in target.headers:
        yield f"the environment variable {variable} is not set; a run needs it"
    if plan.stream is not None:
        yield f"answers are streamed: {plan.stream}"
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
