"""A job worked out: how its rows become requests, what is asked of the answers, and how the results are laid out.

`run` and `check` both work from this, so what `check` shows is what `run` sends. Nothing is sent or written here.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from pipeline import pricing
from pipeline.billing import outcome_costs
from pipeline.dataset import Dataset, DatasetScan, id_text, open_dataset, text_of
from pipeline.errors import DatasetError, JobError
from pipeline.failures import Dialect, without_secrets
from pipeline.jobspec import JobSpec, Target
from pipeline.media import MediaReader, MediaSettings, limits_of
from pipeline.model_rules import must_stream, refuse_silent_thinking, refused_params
from pipeline.parts import DEFAULT_ROWS_PER_PART, RESULT_COLUMNS, InputColumn, Layout, result_name
from pipeline.protocol.assemble import Assembler
from pipeline.protocol.wire import WireFormat, wire_format
from pipeline.records import Completion, Failure, Outcome, Prompt, Request, Response, Row
from pipeline.render import Renderer
from pipeline.response import AnswerCheck
from pipeline.storage import Storage
from pipeline.tokens import content_texts, estimate_from_bytes
from pipeline.uploads import OSS_HEADER
from pipeline.vision_tokens import vision_rule
from pipeline.worst_case import WorstCase

_BATCH_LINE_COLUMNS = frozenset({"custom_id", "method", "url", "body"})
# A part is held in memory until its last row has its outcome: parts of long rows hold fewer of them.
_PART_BYTES = 32 * 1024 * 1024
_LEAST_ROWS_PER_PART = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does with each row. `price` is None where the catalogue does not know it.

    `stream` says why answers are streamed: because the job asks for it, or because the model answers no other way; None
    where they come whole.
    """

    job: JobSpec
    target: Target
    dataset: Dataset
    renderer: Renderer
    check: AnswerCheck
    params: dict[str, Any]
    price: pricing.Price | None
    id_column: str | None
    row_id: Callable[[Row], str | None]
    wire: WireFormat
    stream: str | None
    key_base: bytes
    worst_case: WorstCase
    dialect: Dialect

    def encode(self, prompt: Prompt) -> Request:
        """The request of a prompt. Raises EncodeError for what JSON cannot hold.

        The key does not depend on streaming, nor on the addresses that uploaded files get.
        """
        body = self.wire.encode(self.target.model_name, prompt.messages, prompt.params)
        key = hashlib.blake2b(body, digest_size=16, key=self.key_base).hexdigest()
        tokens = _tokens_estimate(prompt, len(body))
        if self.streams(prompt):
            body = self.wire.encode(self.target.model_name, prompt.messages, prompt.params, stream=True)
        return Request(prompt.index, prompt.row_id, key, body, tokens, self.worst_case.of(prompt, body))

    def decode(self, response: Response, assembler: Assembler | None, now: datetime) -> Completion | Failure:
        """What a response means, with the stream that came before it, if one did; a refusal that repeats our key shows none."""
        if assembler is not None:
            result = assembler.finish(response, self.dialect, now)
        else:
            result = self.wire.decode(response, self.dialect, now)
        if isinstance(result, Failure):
            return without_secrets(result, self.target.secrets)
        if self.job.file.model.protocol == "native":
            result.model = (
                self.target.model_name
            )  # the native format does not name it: it serves what is asked
        return result

    def chat_url(self, base_url: str) -> str:
        """Where requests go, for a server whose compatible API stands at `base_url`."""
        return self.target.api_url(base_url, self.job.file.model.protocol) + self.wire.path

    def assembler(self, prompt: Prompt) -> Assembler | None:
        """What reads the stream that answers a prompt; None where answers come whole."""
        return self.wire.assembler(prompt.params) if self.streams(prompt) else None

    def streams(self, prompt: Prompt) -> bool:
        """Whether a prompt's answer is streamed: all are, or its own parameters (of a batch line) ask for what must be."""
        return self.stream is not None or must_stream(self.target.model, prompt.params) is not None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request, the key among them."""
        more = (
            dict(self.wire.stream_headers) if self.stream is not None else {}
        )  # native lines cannot ask by themselves
        if self.may_carry_oss:
            more.update([OSS_HEADER])
        return {**more, **self.target.headers}

    @property
    def may_carry_oss(self) -> bool:
        prompt = self.job.file.prompt
        brings = prompt.images is not None or prompt.video is not None or prompt.user is None
        return brings and self.target.provider.dialect == "dashscope"

    def problems(self) -> list[str]:
        """What the provider is known to refuse of this job, a sentence each."""
        return list(refused_params(self.target.model, self.params))

    def costs(self, outcomes: Sequence[Outcome]) -> list[Decimal | None]:
        """What each outcome cost, all its paid answers together; None where that is unknown. What has its price keeps it."""
        return outcome_costs(self.price, outcomes)

    def nano_cost(self, answer: Completion) -> int | None:
        """What one answer cost, in billionths of the currency unit; None where that is unknown."""
        usage, price = answer.usage, self.worst_case.price
        if price is None:
            return None
        reasoned = usage.reasoning_tokens or answer.reasoning_content
        return price.nano_cost(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            reasoned,
        )

    def wanted_columns(self) -> list[str] | None:
        """The input columns to carry along, or None for all that are not messages."""
        columns = self.job.file.output.columns
        return None if columns is None else self._with_gold(columns)

    def _with_gold(self, columns: Sequence[str]) -> list[str]:
        gold = self.job.file.response.gold
        return list(dict.fromkeys(columns if gold is None else [*columns, gold]))

    def layout(self, scan: DatasetScan, results: Storage, *, rows_per_part: int, fingerprint: str) -> Layout:
        """How the part files look. Raises JobError for an output or gold column that the dataset has not."""
        return Layout(
            results=results,
            rows_per_part=rows_per_part,
            inputs=self._inputs(scan),
            answer_fields=tuple(self.check.fields()),
            carry=text_of if self.dataset.arrow_schema() is None else _as_it_is,
            costs=self.costs,
            currency=self.price.currency if self.price else None,
            price_version=self.price.version if self.price else None,
            route=self.job.file.model.route,
            raw=self.job.file.output.raw,
            fingerprint=fingerprint,
        )

    def rows_per_part(self, scan: DatasetScan, *, limited: bool) -> int:
        """The job's own figure, or the usual one, less where rows are long; `limited`: the scan did not see them all."""
        if self.job.file.output.rows_per_part is not None:
            return self.job.file.output.rows_per_part
        if limited:
            return DEFAULT_ROWS_PER_PART
        row_bytes = sum(file.size_bytes for file in self.dataset.files) / max(scan.rows, 1)
        rows = DEFAULT_ROWS_PER_PART
        while rows > _LEAST_ROWS_PER_PART and rows * row_bytes > _PART_BYTES:
            rows //= 2
        return rows

    def _inputs(self, scan: DatasetScan) -> tuple[InputColumn, ...]:
        schema = self.dataset.arrow_schema()
        wanted = self.wanted_columns()
        if wanted is None:
            prompt = self.job.file.prompt
            left_out = (
                {prompt.messages} if prompt.messages else _BATCH_LINE_COLUMNS if prompt.format else set()
            )
            wanted = self._with_gold([name for name in scan.columns if name not in left_out])
        for name in wanted:
            if name not in scan.columns and scan.rows:
                raise JobError(_no_column("output.columns or response.gold", name, scan.columns))
        results = RESULT_COLUMNS | {field.name for field in self.check.fields()}
        taken = results | set(wanted)  # a column keeps its own name where it can, whatever stands before it
        inputs: list[InputColumn] = []
        for name in wanted:
            shown = result_name(name, taken) if name in results else name
            taken |= {shown}
            inputs.append(InputColumn(name, shown, schema.field(name).type if schema else pa.string()))
        return tuple(inputs)


def make_plan(job: JobSpec, target: Target) -> Plan:
    """Work out a job. Raises JobError for what cannot be asked, DatasetError where there is no input."""
    file = job.file
    check = AnswerCheck(labels=file.response.labels, schema=job.answer_schema)
    if clash := {field.name for field in check.fields()} & RESULT_COLUMNS:
        raise JobError(
            f"[response] schema has the property {sorted(clash)[0]!r}, which is the name of a result column: rename it"
        )
    dataset = open_dataset(
        job.input_path, base=job.folder, max_line_bytes=file.input.max_line_bytes, s3=job.s3
    )
    id_column = file.input.id or ("custom_id" if file.prompt.format == "openai-batch" else None)
    params = _params(job, target, check)
    if file.media.upload == "oss" and target.provider.dialect != "dashscope":
        raise JobError(
            f'[media] upload = "oss" is DashScope\'s: {target.provider.title} has no such storage. Leave it out'
        )
    refuse_silent_thinking(target.model_name, target.model, params)
    brings_media = file.prompt.images is not None or file.prompt.video is not None
    wire = wire_format(file.model.protocol, target.model_name, target.model, has_media=brings_media)
    # All that decides an answer besides the body, so that equal keys mean the same question to the same server.
    asked = orjson.dumps(
        [target.identity, file.model.route, file.model.protocol, file.response.labels, job.answer_schema],
        option=orjson.OPT_SORT_KEYS,
    )
    row_id = _row_id(id_column)
    price = pricing.price(target.provider, target.model_name, file.model.route)
    rule = vision_rule(target.model.image if target.model else None, target.model_name)
    worst_case = WorstCase(price, target.model, rule, strict=file.budget.is_capped)
    if file.budget.is_capped:
        if price is None:
            raise JobError(_unpriced(target))
        if file.prompt.format is None:  # else each line may set its own
            worst_case.check(params)
    return Plan(
        job=job,
        target=target,
        dataset=dataset,
        renderer=Renderer(file.prompt, params, row_id, _media_reader(job, target, params)),
        check=check,
        params=params,
        price=price,
        id_column=id_column,
        row_id=row_id,
        wire=wire,
        stream="the job asks for it" if file.response.stream else must_stream(target.model, params),
        key_base=hashlib.blake2b(asked, digest_size=32).digest(),
        worst_case=worst_case,
        dialect=Dialect(target.provider.dialect),
    )


def scan_dataset(
    plan: Plan, *, limit: int | None, on_progress: Callable[[int], None] | None = None
) -> DatasetScan:
    """Look the whole dataset over before anything is sent. Raises DatasetError where a row id stands twice."""
    carried = plan.wanted_columns()
    looked_for = None if carried is None else {*carried, *plan.renderer.columns}
    scan = plan.dataset.scan(plan.id_column, limit, on_progress, looked_for)
    if scan.duplicate_ids:
        examples = "; ".join(f"{d.id!r} at {d.first} and {d.again}" for d in scan.duplicate_examples)
        raise DatasetError(
            f"{scan.duplicate_ids:,} rows repeat the id of another row in column {plan.id_column!r}: {examples}. "
            "Nothing was sent. Make the ids unique, or leave input.id out to use the row's index"
        )
    return scan


def missing_columns(plan: Plan, scan: DatasetScan) -> list[str]:
    """The columns that prompts need and no row has."""
    return sorted(plan.renderer.columns - set(scan.columns))


def _media_reader(job: JobSpec, target: Target, params: dict[str, Any]) -> MediaReader | None:
    """What reads the rows' media; None where rows are text alone."""
    section, media = job.file.prompt, job.file.media
    if not section.brings_media and section.user is not None:
        return None
    return MediaReader(
        MediaSettings(
            root=job.input_root,
            rule=vision_rule(target.model.image if target.model else None, target.model_name),
            limits=limits_of(target.provider.dialect, target.model_name),
            high_resolution=params.get("vl_high_resolution_images") is True,
            upload_over_bytes=media.upload_over_bytes if media.upload == "oss" else None,
        )
    )


def _tokens_estimate(prompt: Prompt, body_bytes: int) -> int:
    """The prompt's tokens for the limits: text by its bytes, media by the reference's formulas."""
    if prompt.media_tokens == 0:
        return estimate_from_bytes(body_bytes)
    texts = (text for message in prompt.messages for text in content_texts(message.get("content")))
    return prompt.media_tokens + estimate_from_bytes(
        sum(len(text.encode("utf-8", "replace")) for text in texts)
    )


def _row_id(id_column: str | None) -> Callable[[Row], str | None]:
    if id_column is None:
        return lambda row: str(row.index)
    return lambda row: id_text(row.columns.get(id_column))


def _params(job: JobSpec, target: Target, check: AnswerCheck) -> dict[str, Any]:
    params = dict(job.params)
    wanted = check.response_format()
    by_schema = job.answer_schema is not None and target.model is not None and bool(target.model.json_schema)
    if wanted is not None and (target.provider.labels_by_grammar or by_schema):
        params.setdefault("response_format", wanted)
    # The same parameters in another order are the same prompt, with the same key.
    return dict(sorted(params.items()))


def _unpriced(target: Target) -> str:
    advice = (
        'simulated answers cost nobody anything; to try a budget, point provider = "dashscope" at a simulator with base_url'
        if target.starts == "simulator"
        else "take another model, or the cap out"
    )
    return (
        f"[budget] a cap needs prices, and none is known for {target.model_name} at {target.provider.title}: {advice}. "
        "Nothing was sent"
    )


def _no_column(key: str, name: str, columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the columns are: {', '.join(columns[:20]) or 'none'}"
    return f"{key} names the column {name!r}, which the dataset has not; {hint}"


def _as_it_is(value: Any) -> Any:
    return value
