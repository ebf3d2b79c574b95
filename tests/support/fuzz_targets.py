"""Everything that reads foreign bytes, as one table: what hypothesis and atheris both throw their bytes at.

A target takes any bytes and raises nothing but the errors its docstring documents; what comes out of it is looked at by
assertions here. `seeds` are inputs to begin from, those among them that once broke something; `words` are what inputs of this
kind are made of.
"""

import io
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import orjson

from pipeline.dataset.delimited import read_csv
from pipeline.dataset.files import Cursor
from pipeline.dataset.jsonl import read_jsonl
from pipeline.errors import DatasetError, JobError
from pipeline.failures import MAX_RETRY_AFTER_S, RETRY_HEADERS, Dialect, one_line, retry_after_s
from pipeline.jobspec import PromptSection, load_job, resolve_target
from pipeline.masking import Secrets, printable
from pipeline.media.kinds import HEAD_BYTES, media_type, picture_size
from pipeline.protocol.compatible import EncodeError
from pipeline.protocol.wire import Compatible, Native, WireFormat
from pipeline.records import Completion, Failure, Response, Row, Usage
from pipeline.render import Renderer
from pipeline.response import AnswerCheck

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STATUSES = (200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 413, 429, 500, 502, 503, 599)
BOUND = 1024
_WIRE = Path(__file__).parents[1] / "wire"
_SAMPLES = Path(__file__).parents[2] / "data" / "samples"
_JOBS = Path(__file__).parents[2] / "jobs"
_FORMATS: dict[str, WireFormat] = {
    "compatible": Compatible(),
    "native": Native(multimodal=False),
    "native of models that see": Native(multimodal=True),
}


class Target(NamedTuple):
    """One reader of foreign bytes."""

    name: str
    read: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        """Read the bytes. Whatever is not allowed goes on to the caller."""
        try:
            self.read(data)
        except self.allowed:
            return


def files(folder: Path, *patterns: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern)))


# Datasets


def _rows(rows: list[Row]) -> None:
    assert [row.index for row in rows] == list(range(len(rows)))
    for row in rows:
        if row.problem is not None:
            assert not row.columns
            assert row.problem == one_line(row.problem, 10_000) or not row.problem.isprintable()
        assert row.line > 0
        orjson.dumps(row.columns)


def jsonl(data: bytes) -> None:
    rows = list(read_jsonl(io.BytesIO(data), "rows.jsonl", Cursor(), BOUND))
    _rows(rows)
    start = len(rows) // 2
    assert list(read_jsonl(io.BytesIO(data), "rows.jsonl", Cursor(start=start), BOUND)) == rows[start:]


def csv(data: bytes) -> None:
    rows = list(read_csv(io.BytesIO(data), "rows.csv", Cursor(), BOUND))
    _rows(rows)
    start = len(rows) // 2
    assert list(read_csv(io.BytesIO(data), "rows.csv", Cursor(start=start), BOUND)) == rows[start:]


# Jobs


@cache
def _job_file() -> Path:
    return Path(tempfile.mkdtemp(prefix="promptmill-fuzz-")) / "job.toml"


def job(data: bytes) -> None:
    """A job file, and behind NULs the values of --set."""
    text, *overrides = data.split(b"\0")
    _job_file().write_bytes(text)
    words = [override.decode("utf-8", "surrogateescape") for override in overrides]
    spec = load_job(_job_file(), overrides=words, env={"A": "a", "B": "\udc80"}, now=NOW)
    assert spec.identity()
    target = resolve_target(spec, env={}, need_key=False)
    assert "Authorization" not in target.headers


# Answers


def _storable(found: Completion | Failure) -> None:
    """Its texts are UTF-8 and its counts fit the columns."""
    if isinstance(found, Failure):
        assert found.code
        assert found.message
        texts: list[str | None] = [found.code, found.message, found.request_id]
        assert found.retry_after_s is None or 0 <= found.retry_after_s <= MAX_RETRY_AFTER_S
    else:
        texts = [
            found.content,
            found.finish_reason,
            found.model,
            found.request_id,
            found.reasoning_content,
            found.choices,
        ]
        for call in found.tool_calls or []:
            texts += [call.id, call.name, call.arguments]
        usage = found.usage
        texts.append(usage.raw)
        for count in (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ):
            assert count is None or (type(count) is int and 0 <= count < 2**63)
    assert all(text is None or text.encode() is not None for text in texts)


def _response(data: bytes) -> tuple[Response, Dialect]:
    """The first byte chooses status and dialect; headers stand before an empty line, the body behind it."""
    choice = data[0] if data else 0
    head, gap, body = data[1:].partition(b"\n\n")
    headers = _headers(head) if gap else {}
    status = STATUSES[choice % len(STATUSES)]
    dialect = list(Dialect)[choice // len(STATUSES) % len(Dialect)]
    return Response(status, headers, body if gap else data[1:], 1.0), dialect


def _headers(lines: bytes) -> dict[str, str]:
    pairs = (line.partition(b":") for line in lines.split(b"\n"))
    return {
        name.decode("latin-1").strip().lower(): value.decode("latin-1").strip() for name, _, value in pairs
    }


def answer(form: WireFormat) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        response, dialect = _response(data)
        found = form.decode(response, dialect, NOW)
        _storable(found)
        if response.status >= 300:
            assert isinstance(found, Failure)

    return read


def stream(form: WireFormat, *, cumulative: bool = False) -> Callable[[bytes], None]:
    """Bytes of a stream, cut as its first bytes say; whole or in pieces, what it comes to is the same."""

    def read(data: bytes) -> None:
        cuts, body = data[:4], data[4:]
        params = {"incremental_output": not cumulative}
        head = Response(200, {"content-type": "text/event-stream"}, b"", 1.0)
        whole, pieces = form.assembler(params), form.assembler(params)
        whole.feed(body)
        at = 0
        while at < len(body):
            size = 1 + (cuts[at % len(cuts)] % 61 if cuts else 0)
            pieces.feed(body[at : at + size])
            at += size
        expected = whole.finish(head, Dialect.DASHSCOPE, NOW)
        _storable(expected)
        assert pieces.finish(head, Dialect.DASHSCOPE, NOW) == expected

    return read


def retry_after(data: bytes) -> None:
    found = retry_after_s(_headers(data), NOW)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER_S


_CHECKS = (
    AnswerCheck(labels=["positive", "negative"], schema=None),
    AnswerCheck(
        labels=None,
        schema={
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "stars": {"type": "integer"},
                "share": {"type": ["number", "null"]},
                "sure": {"type": "boolean"},
                "more": {"type": "object"},
                "any": {},
            },
        },
    ),
)


def checked(data: bytes) -> None:
    """What a model says, held against labels and a schema."""
    said = Completion(content=data.decode("utf-8", "replace"), finish_reason="stop", usage=Usage())
    for check in _CHECKS:
        found = check.check(said)
        if isinstance(found, Failure):
            assert found.message
            check.repair([{"role": "user", "content": "?"}], said.content or "", found)
        else:
            names = {field.name: field.type for field in check.fields()}
            assert found.keys() <= names.keys()


# Rows that bring messages


_RENDERERS = (
    Renderer(PromptSection(messages="messages"), {}, lambda row: str(row.index)),
    Renderer(PromptSection(format="openai-batch"), {}, lambda row: str(row.index)),
)


def messages(data: bytes) -> None:
    """A row with a column of messages, or a batch line, up to its request's body."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = data.decode("utf-8", "replace")
    columns = value if isinstance(value, dict) else {"messages": value, "body": value}
    for renderer in _RENDERERS:
        row = Row(0, columns, "rows.jsonl", 1)
        prompt = renderer.render(row)
        if isinstance(prompt, Failure):
            assert prompt.message.isprintable()
            continue
        for form in _FORMATS.values():
            try:
                body = form.encode("m", prompt.messages, prompt.params)
            except EncodeError as error:
                assert renderer.not_encodable(row, error).message.isprintable()
            else:
                orjson.loads(body)


# What is shown


def shown(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    line = one_line(text)
    assert len(line) <= 500
    assert line.isprintable()
    assert one_line(line) == line or len(line) == 500
    assert "\x1b" not in printable(text)
    secret = "canary-0123456789"
    assert secret[:12] not in Secrets([secret]).masked(text + secret)


def picture(data: bytes) -> None:
    mime = media_type(data[:HEAD_BYTES])
    if mime is not None and mime.startswith("image/"):
        size = picture_size(data, mime)
        assert size is None or min(size) > 0


_JSON_WORDS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud83d",
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-0",
    ),
    *(b"9" * 25, b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\n", b"\r\n", "中".encode()),
)
_ANSWER_WORDS = (
    *_JSON_WORDS,
    *(
        b'"choices":[',
        b'"message":{',
        b'"content":',
        b'"finish_reason":"stop"',
        b'"index":',
        b'"error":{',
        b'"code":',
    ),
    *(
        b'"message":',
        b'"usage":{',
        b'"prompt_tokens":',
        b'"tool_calls":[',
        b'"function":{',
        b'"arguments":',
        b'"output":{',
    ),
    *(
        b'"text":',
        b'"model":',
        b'"request_id":',
        b'"logprobs":',
        b'"delta":{',
        b'"reasoning_content":',
        b'"refusal":',
    ),
    *(b"x-dashscope-partialresponse: true\n\n", b"retry-after: 5\n\n", b"<html>", b"data: "),
)
_STREAM_WORDS = (
    *_ANSWER_WORDS,
    *(
        b"data: ",
        b"data:",
        b"\n\n",
        b"\r\n\r\n",
        b"\r",
        b"event: error\n",
        b"event:result\n",
        b":HTTP_STATUS/429\n",
        b"id:1\n",
    ),
    *(
        b"data: [DONE]\n\n",
        b": keep-alive\n\n",
        b'data: {"choices":[{"delta":{"content":"a"},"index":0}]}\n\n',
    ),
    *(b'data:{"output":{"choices":[{"message":{"content":"a"},"finish_reason":"null"}]}}\n\n',),
)
_TOML_WORDS = (
    *(
        b"[input]\n",
        b"[prompt]\n",
        b"[model]\n",
        b"[output]\n",
        b"[params]\n",
        b"[response]\n",
        b"[headers]\n",
        b"[budget]\n",
    ),
    *(
        b"path = ",
        b"user = ",
        b"provider = ",
        b"name = ",
        b"base_url = ",
        b"schema = ",
        b"tools = ",
        b"window = ",
        b"labels = ",
    ),
    *(
        b'"',
        b"'",
        b"'''",
        b"{",
        b"}",
        b"[",
        b"]",
        b"=",
        b".",
        b",",
        b"\n",
        b"\0",
        b"1e400",
        b"inf",
        b"-1",
        b"9" * 30,
    ),
    *(
        b"2026-01-01T00:00:00Z",
        b"{now:%Y}",
        b"{now:%",
        b"{env:A}",
        b"{env:B}",
        b"{today}",
        b"~",
        b"..",
        b"/",
        b"http://h/v1",
    ),
    *(
        b"\xff",
        b"\\ud800",
        b"\\u0000",
        b"#",
        b"params.a=",
        b"transport.proxy=",
        b"null",
        b"true",
        b"10m",
        b'"22:00-07:00"',
    ),
)
_RETRY_WORDS = (
    *(name.encode() for name in sorted(RETRY_HEADERS)),
    *(
        b":",
        b"\n",
        b" ",
        b"0",
        b"1",
        b"9" * 20,
        b".",
        b"-",
        b"e9",
        b"inf",
        b"nan",
        b"ms",
        b"s",
        b"m",
        b"h",
        b"d",
        b",",
    ),
    *(
        b"Sun, 22 Nov 2026 12:00:05 GMT",
        b"Nov",
        b"GMT",
        b"+0000",
        b"-9999",
        b"12:00:00",
        b"\xff",
        "٣".encode(),
    ),
)
_CSV_WORDS = (
    b",",
    b'"',
    b'""',
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff",
    b"id,text\n",
    b"a",
    b";",
    b"\xef\xbb\xbf",
    b"x" * 500,
)
_MINIMAL_JOB = (
    b'name = "n"\n[input]\npath = "r.jsonl"\n[prompt]\nuser = "{{ a }}"\n[model]\nprovider = "simulator"\nname = "m"\n'
    b'[output]\npath = "o"\n'
)
_MINIMAL_STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"},"index":0,"finish_reason":null}],"model":"m","id":"i"}\n\n'
    b'data: {"choices":[{"delta":{"content":"b"},"index":0,"finish_reason":null}],"model":"m","id":"i"}\n\n'
    b'data: {"choices":[{"delta":{"content":""},"index":0,"finish_reason":"stop"}],"model":"m","id":"i"}\n\ndata: [DONE]\n\n'
)
_BODIES = tuple(b"\0" + body for body in files(_WIRE / "bodies", "*.json"))
_ERRORS = tuple(b"\x06" + body for body in files(_WIRE / "bodies", "*error*.json", "*detail*.json"))
_STREAMS = tuple(b"\x07\0\x20\x03" + body for body in files(_WIRE / "streams", "*.txt"))

TARGETS = (
    Target("jsonl", jsonl, (DatasetError,), files(_SAMPLES, "dirty.jsonl", "hostile.jsonl"), _JSON_WORDS),
    Target(
        "csv",
        csv,
        (DatasetError,),
        (b'id,text\n1,"a ""b""\nc"\n2,x\n', b'id,text\n1,"' + b"x\n" * 600 + b'"\n2,x\n'),
        _CSV_WORDS,
    ),
    Target("job", job, (JobError,), (_MINIMAL_JOB, *files(_JOBS, "*.toml")), _TOML_WORDS),
    Target("stream", stream(_FORMATS["compatible"]), (), (*_STREAMS, b"\0\0\0\0" + _MINIMAL_STREAM), _STREAM_WORDS),
    Target("native-stream", stream(_FORMATS["native"]), (), _STREAMS, _STREAM_WORDS),
    Target("cumulative-stream", stream(_FORMATS["native"], cumulative=True), (), _STREAMS, _STREAM_WORDS),
    Target("answer", answer(_FORMATS["compatible"]), (), (*_BODIES, *_ERRORS), _ANSWER_WORDS),
    Target("native-answer", answer(_FORMATS["native"]), (), (*_BODIES, *_ERRORS), _ANSWER_WORDS),
    Target("retry-after", retry_after, (), (b"retry-after: 5", b"retry-after-ms: 1500"), _RETRY_WORDS),
    Target(
        "checked",
        checked,
        (),
        (b"positive", b'```json\n{"name": "a", "stars": 5, "share": 0.5, "sure": true}\n```'),
        (*_JSON_WORDS, b"positive", b"```", b"json", b'"name":', b'"stars":', b'"share":', b'"sure":', b'"more":', b'"any":'),
    ),
    Target(
        "messages",
        messages,
        (),
        (
            b'[{"role": "user", "content": "a"}]',
            b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user"}]}}',
        ),
        (*_JSON_WORDS, b'"role":"user"', b'"role":', b'"content":', b'"messages":[', b'"body":{', b'"text"'),
    ),
    Target(
        "shown",
        shown,
        (),
        (b"see https://me:pw@h/a?Signature=x&y=1, or sk-0123456789",),
        (b"://", b"@", b"?", b"&", b"=", b"sk-", b"sig", b"https://h/", b"\x1b", b"\xff", b"canary-0123", b" ", b"a" * 50),
    ),
    Target(
        "picture",
        picture,
        (),
        tuple(one[:600] for one in files(_SAMPLES / "media", "*.png", "*.jpg", "*.webp")),
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"WEBP", b"VP8X", b"II*\0", b"MM\0*", b"BM", b"GIF89a", b"ftypheic",
         b"\0\0\0\x18", b"meta", b"iprp", b"ipco", b"ispe", b"\xff\xc0", b"\xff\xff\xff\xff", b"\0" * 8),
    ),
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}
