"""The simulator withstands what it is asked: it opens no file, holds no more than it may, and answers every request."""

import asyncio
import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulator.instances import instance
from pipeline.simulator.ledger import UploadTally
from pipeline.simulator.settings import Settings, settings_from_options
from pipeline.simulator.storage import oss
from pipeline.simulator.storage.documents import document_text
from pipeline.simulator.storage.oss import ObjectStore
from tests.support.opened import opened_names
from tests.support.simulators import NATIVE_MULTIMODAL, Place, at_simulator

MIB = 1024 * 1024
SECRET = Path("/etc/passwd")
WAYS_OUT = [
    "/etc/passwd",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:/etc/passwd",
    "../../../../../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..\\..\\etc\\passwd",
    "/proc/self/environ",
    "/dev/zero",
    "oss://../../etc/passwd",
    "fileid://../../etc/passwd",
    "data:image/png;base64,L2V0Yy9wYXNzd2Q=",
    "\0/etc/passwd",
]


def vision(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_path_in_a_request_reaches_the_file_system(way: str) -> None:
    """Neither in a message, a part, a file name, an id, a form's field or the address itself, in either dialect."""

    async def use(place: Place) -> None:
        base, native = place.simulator.base_url, place.simulator.native_base_url
        headers = {"X-DashScope-OssResourceResolve": "enable"}
        picture = {"type": "image_url", "image_url": {"url": way}}
        document = [{"role": "system", "content": f"fileid://{way}"}, {"role": "user", "content": "?"}]
        schema = {"type": "json_schema", "json_schema": {"schema": {"$ref": way}}}
        with opened_names() as names:
            answers = [
                await place.chat(vision(picture), model="qwen-vl-max", headers=headers),
                await place.chat(vision({"type": "video", "video": [way] * 4}), model="qwen-vl-max"),
                await place.chat(vision({"type": "video_url", "video_url": {"url": way}}), model="qwen-vl-max"),
                await place.chat(document, model="qwen-long"),
                await place.chat([{"role": "user", "content": way}], tools=way, response_format=schema),
                await place.native([{"role": "user", "content": [{"image": way}]}], model="qwen-vl-max", path=NATIVE_MULTIMODAL),
                await place.upload(b"text", f"{way}.txt"),
                await place.upload(b"text", way),
                await place.http.get(f"{native}/uploads", params={"action": "getPolicy", "model": way}),
                await place.http.post(f"{place.simulator.url}/_oss", data={"key": way}, files={"file": (way, b"x")}),
                *[await place.http.get(httpx.URL(f"{base}/files/").copy_with(raw_path=f"{where}{_quoted(way)}".encode()))
                  for where in ("/compatible-mode/v1/files/", "/", "/compatible-mode/v1/", "/_ledger/")],
            ]  # fmt: skip
        assert not [name for name in names if "passwd" in name or "/proc" in name or "/dev" in name], names
        assert all(answer.status_code < 500 for answer in answers), [a.status_code for a in answers]
        content = SECRET.read_bytes()[:20]
        assert not [answer for answer in answers if content in answer.content]

    at_simulator(use)


def _quoted(path: str) -> str:
    return path.replace("\0", "%00").replace("\\", "%5c").replace(" ", "%20")


# Bodies


def test_what_a_packed_body_unpacks_to_is_bounded() -> None:
    bomb = gzip.compress(bytes(200 * MIB), 1)

    async def use(place: Place) -> None:
        url = place.simulator.base_url + "/chat/completions"
        answer = await place.http.post(url, content=bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 400
        assert place.totals["completed"] == 0

    at_simulator(use)


def test_all_bodies_under_way_share_one_room_and_give_it_back() -> None:
    async def use(place: Place) -> None:
        big = "x" * (400 * 1024)
        first = asyncio.create_task(place.chat([{"role": "user", "content": big}]))
        second = asyncio.create_task(place.chat([{"role": "user", "content": big + "y"}]))
        while place.totals["in_flight"] < 2:
            await asyncio.sleep(0)
        refused = await place.chat([{"role": "user", "content": big + "z"}])
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ModelServingError")
        assert (await place.upload(bytes(500 * 1024), "a.txt")).status_code == 503
        assert (await place.chat()).status_code == 200  # a small one still finds room
        assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]
        assert (await place.upload(bytes(500 * 1024), "a.txt")).status_code == 200
        assert place.simulator._room.held_bytes == 0

    at_simulator(use, settings_from_options({"max_held_bytes": MIB, "latency": "500ms"}))


def test_a_client_that_goes_gives_its_room_back() -> None:
    async def use(place: Place) -> None:
        with pytest.raises(httpx.TimeoutException):
            await place.http.post(
                place.simulator.base_url + "/chat/completions",
                content=json.dumps(
                    {"model": "qwen-plus", "messages": [{"role": "user", "content": "x" * MIB}]}
                ),
                timeout=httpx.Timeout(5, read=0.05),
            )
        while place.simulator._room.held_bytes:
            await asyncio.sleep(0)

    at_simulator(use, Settings(faults=settings_from_options({"fault": ["stall=1"]}).faults))


BOUNDARY = b"--b\r\n"


def _field(name: str, value: bytes) -> bytes:
    return BOUNDARY + f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"".join(_field(f"f{n}", b"x") for n in range(101)) + b"--b--\r\n",
        _field("a", bytes(64 * 1024 + 1)) + b"--b--\r\n",
        b"",
        b"no form at all",
        b"--b",
        b"--b\r\n\r\n",
        BOUNDARY + b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
        BOUNDARY + b"Content-Transfer-Encoding: base64\r\n\r\n!!!\r\n--b--\r\n",
        BOUNDARY + b"Content-Length: -5\r\n\r\nx\r\n--b--\r\n",
        BOUNDARY + b"Content-Length: 99999999999999999999\r\n\r\nx\r\n--b--\r\n",
        BOUNDARY + b"\xff\xfe: \x00\r\n\r\nx\r\n--b--\r\n",
        BOUNDARY + b"A: " + b"x" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
        BOUNDARY + b"".join(b"A%d: x\r\n" % n for n in range(10_000)) + b"\r\nx\r\n--b--\r\n",
    ],
    ids=lambda body: str(body[:60]),
)
def test_a_form_that_is_none_or_too_much_is_refused(body: bytes) -> None:
    async def use(place: Place) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        for url in (f"{place.simulator.base_url}/files", f"{place.simulator.url}/_oss"):
            answer = await place.http.post(url, content=body, headers=headers)
            assert 400 <= answer.status_code < 500, answer.text
        assert place.simulator._room.held_bytes == 0

    at_simulator(use)


# Documents


def zipped(name: str, content: bytes, count: int = 1, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for n in range(count):
            archive.writestr(name if count == 1 else f"{name}{n}", content)
    return packed.getvalue()


def pdf(*streams: bytes) -> bytes:
    return b"%PDF-1.4\n" + b"".join(b"stream\n" + stream + b"\nendstream\n" for stream in streams)


HUGE = 80 * MIB
DOCUMENTS = [
    ("a.docx", zipped("word/document.xml", bytes(HUGE))),
    ("a.docx", zipped("word/document.xml", b"<" * 500_000)),
    ("a.docx", zipped("word/document.xml", b"&#x" * 500_000)),
    ("a.docx", zipped("word/document.xml", b"text", method=zipfile.ZIP_BZIP2)),
    ("a.docx", zipped("word/document.xml", bytes(HUGE), method=zipfile.ZIP_LZMA)),
    ("a.xlsx", zipped("xl/worksheets/", b"x", count=11_000)),
    ("a.epub", zipped("a.html", b"<p>" * 500_000)),
    ("a.docx", b"PK\x03\x04" + bytes(1000)),
    ("a.docx", b"PK\x05\x06" + b"\xff" * 18),
    ("a.docx", zipped("word/document.xml", b"text")[:-10]),
    ("a.pdf", pdf(*[zlib.compress(bytes(8 * MIB))] * 40)),
    ("a.pdf", pdf(*[zlib.compress(b"(text) Tj " * 500_000)] * 40)),
    ("a.pdf", pdf(b"[" * 500_000)),
    ("a.pdf", pdf(b"(" * 500_000)),
    ("a.pdf", pdf(b"[(" * 300_000)),
    ("a.pdf", pdf(b"(a) " * 300_000)),
    ("a.pdf", pdf(b"\\" * 500_001)),
    ("a.pdf", b"stream\n" * 200_000),
    ("a.pdf", b"stream\n" * 200_000 + b"endstream"),
    ("a.json", b"[" * MIB),
    ("a.txt", b"\xff\xfe" * MIB),
]


@pytest.mark.parametrize(("name", "content"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_a_document_that_is_a_bomb_is_read_as_far_as_it_may(name: str, content: bytes) -> None:
    text = document_text(name, content)
    assert text is None or len(text) <= 64 * MIB


def test_what_is_kept_of_uploads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oss, "MOST_KEPT", 100)
    store = ObjectStore(lambda: 0.0)
    policies = [store.policy("m", "http://h") for _ in range(300)]
    assert len({policy["upload_dir"] for policy in policies}) == 300
    assert len(store._policies) == 100
    tally = UploadTally()
    tally.digests.update({str(n): 1 for n in range(250_000)})
    tally.add(b"one more")
    assert (tally.uploaded, tally.totals()["distinct"], tally.dropped) == (1, 250_000, 1)


# Schemas

SELF = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghij"}}


@pytest.mark.parametrize(
    "schema",
    [
        SELF,
        {"type": "array", "minItems": 10**12, "items": {"type": "string"}},
        {"type": "string", "minLength": 10**12},
        {"type": "array", "minItems": 9_000, "items": {"type": "array", "minItems": 9_000}},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"type": "integer", "multipleOf": 0},
        {"type": "integer", "minimum": "x", "maximum": [], "multipleOf": -1},
        {"type": "number", "minimum": 1e308, "maximum": -1e308},
        {"type": ["null"]},
        {"type": {"a": 1}},
        {"type": "array", "minItems": -5, "maxItems": -7},
    ],
)
def test_a_schema_that_asks_for_more_than_anybody_can_answer_gets_a_bounded_answer(schema: Any) -> None:
    assert len(json.dumps(instance(schema, Random(1)))) < 4 * MIB


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "properties", "items", "enum", "const", "anyOf", "$ref", "minimum", "maximum", "minItems",
                         "maxItems", "minLength", "maxLength", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "a"]),
        inner | st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", "#", "#/a"]),
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(schema=_JSON)
def test_any_json_is_a_schema_that_is_answered(schema: Any) -> None:
    json.dumps(instance(schema, Random(1)))


@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_request_that_is_answered(data: bytes) -> None:
    async def use(place: Place) -> None:
        for path in (
            "/compatible-mode/v1/chat/completions",
            "/api/v1/services/aigc/text-generation/generation",
            "/api/v1/tokenizer",
        ):
            answer = await place.http.post(place.simulator.url + path, content=data)
            assert answer.status_code < 500

    at_simulator(use)
