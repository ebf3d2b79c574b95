"""`promptmill check`."""

import sys
from pathlib import Path

import click

from pipeline.check import check_plan, shown_request
from pipeline.commands.job import now, read_plan
from pipeline.counting import exact_tokens
from pipeline.errors import JobError
from pipeline.failures import one_line
from pipeline.masking import printable
from pipeline.plan import Plan, scan_dataset
from pipeline.pricing import plain
from pipeline.progress import counting
from pipeline.run_log import Notes
from pipeline.storage import LocalFiles
from pipeline.transport.seam import shown as shown_url


def carry_out(
    job: Path,
    overrides: tuple[str, ...],
    *,
    input_path: str | None,
    output_path: str | None,
    prices: Path | None,
    limit: int | None,
    show: int,
) -> int:
    """Look a job over and print what was found; the report is the result, so it goes to stdout."""
    plan = read_plan(
        job, overrides, input_path=input_path, output_path=output_path, prices=prices, need_key=False
    )
    notes = Notes(stream=sys.stderr, quiet=False, format="text", now=now)
    scan = scan_dataset(plan, limit=limit, on_progress=counting(notes, "looking the input over"))
    report = check_plan(plan, scan, limit=limit, show=show, on_progress=counting(notes, "rendering"))
    try:
        plan.layout(
            scan,
            LocalFiles(plan.job.output_path),
            rows_per_part=plan.rows_per_part(scan, limited=limit is not None),
            fingerprint="",
        )
    except JobError as error:
        report.problems.append(str(error))
    for line in _facts(plan):
        _say(line)
    _say(f"rows      {report.rows:,}, {report.rendered:,} of them become requests, about "
               f"{report.prompt_tokens:,} prompt tokens in all")  # fmt: skip
    for number, (prompt, request) in enumerate(report.requests, 1):
        row_id = one_line(request.row_id, 80)
        _say(
            f"\nrequest {number} (row id {row_id}, {exact_tokens(plan, prompt)} prompt tokens, key {request.key}):"
        )
        _say(shown_request(request))
    if report.bad_rows:
        _say(f"\n{report.bad_rows:,} rows cannot become requests; in a run they end as failed, unsent:")
    for example in report.bad_examples:
        _say(f"  {example}")
    if (more := report.bad_rows - len(report.bad_examples)) > 0:
        _say(f"  and {more:,} more")
    for note in report.notes:
        _say(f"note: {note}")
    for problem in report.problems:
        _say(f"problem: {problem}")
    _say("\nall is well; nothing was sent" if report.fine else "\nnothing was sent")
    return 2 if report.problems else 3 if report.bad_rows else 0


def _say(text: str) -> None:
    """Print what may hold words of the dataset: a terminal shows them and obeys none."""
    click.echo(printable(text))


def _facts(plan: Plan) -> list[str]:
    job, target = plan.job, plan.target
    address = (
        "started by the run itself"
        if target.base_url is None
        else f"POST {shown_url(plan.chat_url(target.base_url))}"
    )
    pace = [
        f"{limit:,.0f} {name} a minute"
        for name, limit in (("requests", target.requests_per_minute), ("tokens", target.tokens_per_minute))
        if limit is not None
    ]
    files = plan.dataset.files
    return [
        f"job       {job.file.name} ({job.source})",
        f"input     {job.input_path} ({len(files)} {'file' if len(files) == 1 else 'files'}, {plan.dataset.format})",
        f"output    {job.output}"
        + ("" if job.output == str(job.output_path) else f" (state in {job.output_path})"),
        *(f"{name:<9} {path}" for name, path in (("root", job.input_root), ("ca_file", job.ca_file)) if path),
        f"model     {target.model_name} at {target.provider.title}: {address}",
        f"limits    {', '.join([*pace, f'{target.max_concurrency} in flight'])}",
        f"price     {_price_said(plan)}",
    ]


def _price_said(plan: Plan) -> str:
    price, model = plan.price, plan.target.model
    if price is None or model is None:
        return "not known: rows will have no cost (docs/costs.md)"
    tiers = []
    for rate in price.rates:
        edge = (
            "" if rate.up_to_prompt_tokens is None else f" up to {rate.up_to_prompt_tokens:,} prompt tokens"
        )
        dearer = rate.thinking_output != rate.output
        thinking = f" ({plain(rate.thinking_output)} with reasoning)" if dearer else ""
        tiers.append(f"{plain(rate.input)} in, {plain(rate.output)} out{thinking}{edge}")
    if len(tiers) > 1:
        tiers[-1] += " above"
    return f"{price.currency} per 1,000,000 tokens: {'; '.join(tiers)} (checked {model.checked})"
