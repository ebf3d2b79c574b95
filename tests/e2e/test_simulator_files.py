"""The simulator's uploads: documents for qwen-long through the Files API, and temporary `oss://` media."""

import io
import zipfile
import zlib
from typing import Any

import httpx
import pytest

from pipeline.simulator.settings import Settings, settings_from_options
from pipeline.simulator.storage.documents import BYTES_PER_NOMINAL_TOKEN, document_text
from pipeline.tokens import count_text
from tests.support.simulators import NATIVE_MULTIMODAL, Clock, Place, at_simulator, data_url, png

UNHURRIED = {"file_uploads_per_second": 1000.0, "file_queries_per_second": 1000.0}
TEXT = "百炼 X1 is a phone. It costs 4599. " * 20


def about(*ids: str) -> list[dict[str, Any]]:
    files = ",".join(f"fileid://{file_id}" for file_id in ids)
    return [{"role": "system", "content": files}, {"role": "user", "content": "这篇文章讲了什么?"}]


def docx(*paragraphs: str) -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f'<?xml version="1.0"?><w:document>{body}</w:document>')
    return packed.getvalue()


def pdf(text: str) -> bytes:
    drawn = zlib.compress(b"BT (" + text.encode("latin-1") + b") Tj ET")
    return b"%PDF-1.4\n1 0 obj\nstream\n" + drawn + b"\nendstream\nendobj\n%%EOF"


async def query(place: Place, path: str, method: str = "GET") -> httpx.Response:
    return await place.http.request(method, place.simulator.base_url + "/files" + path)


def message_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_a_document_is_uploaded_described_listed_read_and_deleted() -> None:
    async def use(place: Place) -> None:
        stored = (await place.upload(TEXT.encode(), "phones.txt")).json()
        assert stored["id"].startswith("file-fe-")
        assert (stored["bytes"], stored["filename"], stored["purpose"], stored["status"]) == (
            len(TEXT.encode()),
            "phones.txt",
            "file-extract",
            "processed",
        )
        assert (await query(place, f"/{stored['id']}")).json() == stored
        answer = (await place.chat(about(stored["id"]), model="qwen-long")).json()
        asked = 5 + count_text(TEXT) + 5 + count_text("这篇文章讲了什么?") + 3
        assert answer["usage"]["prompt_tokens"] == asked
        deleted = (await query(place, f"/{stored['id']}", "DELETE")).json()
        assert deleted == {"object": "file", "deleted": True, "id": stored["id"]}
        assert message_of(await query(place, f"/{stored['id']}")) == (400, "File not found.")
        assert message_of(await query(place, f"/{stored['id']}", "DELETE")) == (400, "File not found.")
        gone = await place.chat(about(stored["id"]), model="qwen-long")
        assert message_of(gone) == (400, f"Invalid file [id:{stored['id']}].")
        assert place.totals["files"]["deleted"] == 1
        assert place.totals["modes"] == {"compatible": 1, "documents": 1}

    at_simulator(use, settings_from_options(UNHURRIED))


def test_files_are_listed_in_pages() -> None:
    async def use(place: Place) -> None:
        ids = [(await place.upload(name=f"{i}.txt")).json()["id"] for i in range(5)]
        assert len(set(ids)) == 5  # the same content is another file
        page = (await query(place, "?limit=2")).json()
        assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
        rest = (await query(place, f"?limit=10&after={ids[1]}")).json()
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)
        totals = place.totals["files"]
        assert (totals["uploaded"], totals["distinct"]) == (5, 1)

    at_simulator(use, settings_from_options(UNHURRIED))


def test_a_file_is_processing_for_a_time() -> None:
    clock = Clock()

    async def use(place: Place) -> None:
        stored = (await place.upload()).json()
        assert stored["status"] == "processing"
        early = await place.chat(about(stored["id"]), model="qwen-long")
        assert message_of(early) == (400, "File parsing in progress, please try again later.")
        clock.now_s = 29.9
        assert (await query(place, f"/{stored['id']}")).json()["status"] == "processing"
        clock.now_s = 30.0
        assert (await query(place, f"/{stored['id']}")).json()["status"] == "processed"
        assert (await place.chat(about(stored["id"]), model="qwen-long")).status_code == 200

    at_simulator(use, settings_from_options({**UNHURRIED, "file_processing": "30s"}), clock)


def test_a_file_may_be_processing_until_it_was_asked_for_often_enough() -> None:
    async def use(place: Place) -> None:
        file_id = (await place.upload()).json()["id"]
        states = [(await query(place, f"/{file_id}")).json()["status"] for _ in range(4)]
        assert states == ["processing", "processing", "processed", "processed"]
        other = (await place.upload()).json()["id"]
        answers = [(await place.chat(about(other), model="qwen-long")).status_code for _ in range(3)]
        assert answers == [400, 400, 200]

    at_simulator(use, settings_from_options({**UNHURRIED, "file_polls": 2}))


def test_uploads_and_queries_have_their_own_rates() -> None:
    clock = Clock()

    async def use(place: Place) -> None:
        sent = [(await place.upload()).status_code for _ in range(5)]
        assert sent == [200, 200, 200, 429, 429]
        assert [(await query(place, "")).status_code for _ in range(11)] == [200] * 10 + [429]
        clock.now_s = 1.0
        assert (await place.upload()).status_code == 200
        totals = place.totals["files"]
        assert (totals["uploaded"], totals["refused"]) == (4, 2)

    at_simulator(use, clock=clock)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"most_files": 1}, "Upload file number exceed limit."),
        ({"most_file_bytes": 15}, "Upload file capacity exceed limit."),
    ],
)
def test_a_full_account_says_so_until_something_is_deleted(setting: dict[str, int], message: str) -> None:
    async def use(place: Place) -> None:
        first = (await place.upload()).json()["id"]
        assert message_of(await place.upload()) == (400, message)
        await query(place, f"/{first}", "DELETE")
        assert (await place.upload()).status_code == 200

    at_simulator(use, settings_from_options({**UNHURRIED, **setting}))


@pytest.mark.parametrize(
    ("name", "purpose", "code"),
    [
        ("a.exe", "file-extract", "BadRequest.UnsupportedFileFormat"),
        ("nameless", "file-extract", "BadRequest.UnsupportedFileFormat"),
        ("a.txt", "fun", "invalid_parameter_error"),
        ("a.txt", "batch", "BadRequest.UnsupportedFileFormat"),
    ],
)
def test_a_file_that_is_not_welcome_is_refused(name: str, purpose: str, code: str) -> None:
    async def use(place: Place) -> None:
        answer = await place.upload(name=name, purpose=purpose)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        no_form = await place.http.post(place.simulator.base_url + "/files", json={})
        assert no_form.status_code == 400
        assert place.totals["files"]["refused"] == 2

    at_simulator(use, settings_from_options(UNHURRIED))


def test_several_documents_are_read_together_and_too_many_are_not() -> None:
    async def use(place: Place) -> None:
        ids = [(await place.upload(f"Document {i}".encode())).json()["id"] for i in range(2)]
        one = (await place.chat(about(ids[0]), model="qwen-long")).json()["usage"]["prompt_tokens"]
        both = (await place.chat(about(*ids), model="qwen-long")).json()["usage"]["prompt_tokens"]
        assert both == one + count_text("Document 1")
        many = await place.chat(about(*([ids[0]] * 101)), model="qwen-long")
        assert message_of(many) == (400, "Too many files provided.")
        as_text = await place.chat(about("nothing"), model="qwen-plus")
        assert as_text.status_code == 200  # other models see a text like any other

    at_simulator(use, settings_from_options(UNHURRIED))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("blank.txt", b"", "content blank."),
        ("a.png", png(20, 20), "format is not supported."),
    ],
)
def test_a_document_without_text_is_refused_by_the_model(name: str, content: bytes, message: str) -> None:
    async def use(place: Place) -> None:
        file_id = (await place.upload(content, name)).json()["id"]
        answer = await place.chat(about(file_id), model="qwen-long")
        assert message_of(answer) == (400, f"File [id:{file_id}] {message}")

    at_simulator(use, settings_from_options(UNHURRIED))


def test_the_text_of_a_document_is_read_by_its_format() -> None:
    assert document_text("a.txt", "百炼".encode("gb18030")) == "百炼"
    assert document_text("a.md", "\ufeff# Title".encode()) == "# Title"
    assert document_text("a.docx", docx("One &amp; two", "Three")) == "One & two\nThree"
    assert document_text("a.pdf", pdf("Hello \\(you\\)")) == "Hello (you)"
    assert document_text("scan.pdf", b"%PDF-1.4 nothing to read") is None
    assert document_text("broken.docx", b"PK is all") is None
    assert document_text("a.mobi", b"?") is None


def test_a_document_that_cannot_be_read_has_nominal_tokens() -> None:
    async def use(place: Place) -> None:
        file_id = (await place.upload(b"?" * 1_000, "a.mobi")).json()["id"]
        usage = (await place.chat(about(file_id), model="qwen-long")).json()["usage"]
        assert (
            usage["prompt_tokens"]
            == 5 + 1_000 // BYTES_PER_NOMINAL_TOKEN + 5 + count_text("这篇文章讲了什么?") + 3
        )

    at_simulator(use, settings_from_options(UNHURRIED))


async def policy(place: Place, model: str = "qwen3-vl-plus") -> dict[str, Any]:
    query = {"action": "getPolicy", "model": model}
    answer = await place.http.get(place.simulator.native_base_url + "/uploads", params=query)
    data: dict[str, Any] = answer.json()["data"]
    return data


async def post_form(
    place: Place, issued: dict[str, Any], name: str = "a.png", **changed: str
) -> httpx.Response:
    fields = {
        "OSSAccessKeyId": issued["oss_access_key_id"],
        "Signature": issued["signature"],
        "policy": issued["policy"],
        "key": f"{issued['upload_dir']}/{name}",
        "x-oss-object-acl": issued["x_oss_object_acl"],
        "x-oss-forbid-overwrite": issued["x_oss_forbid_overwrite"],
        "success_action_status": "200",
        **changed,
    }
    return await place.http.post(issued["upload_host"], data=fields, files={"file": (name, png(320, 320))})


def showing(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"image": url}]}]


RESOLVES = {"X-DashScope-OssResourceResolve": "enable"}
SEEING: dict[str, Any] = {"model": "qwen3-vl-plus", "path": NATIVE_MULTIMODAL}


def test_the_same_content_uploaded_again_is_asked_the_same_and_answered_alike() -> None:
    async def use(place: Place) -> None:
        asked = [
            await place.chat(
                about((await place.upload(TEXT.encode(), "x.txt")).json()["id"]), model="qwen-long"
            )
            for _ in range(2)
        ]
        issued = await policy(place)
        for name in ("a.png", "b.png"):
            assert (await post_form(place, issued, name)).status_code == 200
        seen = [
            await place.native(showing(f"oss://{issued['upload_dir']}/{name}"), headers=RESOLVES, **SEEING)
            for name in ("a.png", "b.png")
        ]
        assert asked[0].json()["choices"] == asked[1].json()["choices"]
        assert seen[0].json()["output"] == seen[1].json()["output"]
        totals = place.totals
        assert (totals["files"]["uploaded"], totals["files"]["distinct"], totals["distinct"]) == (2, 1, 4)

    at_simulator(use, settings_from_options(UNHURRIED))


def test_temporary_media_count_as_if_they_were_sent_along() -> None:
    async def use(place: Place) -> None:
        issued = await policy(place)
        assert (await post_form(place, issued)).status_code == 200
        url = f"oss://{issued['upload_dir']}/a.png"
        by_oss = await place.native(showing(url), headers=RESOLVES, **SEEING)
        along = await place.native(showing(data_url(png(320, 320))), **SEEING)
        assert by_oss.json()["usage"]["input_tokens"] == along.json()["usage"]["input_tokens"] == 121
        oss = place.totals["oss"]
        assert (oss["uploaded"], oss["distinct"], place.totals["modes"]["oss"]) == (1, 1, 1)

    at_simulator(use)


def test_temporary_media_need_the_header_the_model_and_the_time() -> None:
    clock = Clock()

    async def use(place: Place) -> None:
        issued = await policy(place)
        await post_form(place, issued)
        asked = showing(f"oss://{issued['upload_dir']}/a.png")
        plain = (await place.native(asked, **SEEING)).json()
        assert plain["message"].endswith(
            "The provided URL does not appear to be valid. Ensure it is correctly formatted."
        )
        unknown = await place.native(showing("oss://no/such.png"), headers=RESOLVES, **SEEING)
        assert "Failed to find the requested media resource" in unknown.text
        other = await place.native(asked, headers=RESOLVES, **{**SEEING, "model": "qwen3-vl-flash"})
        assert (other.status_code, other.json()["code"]) == (400, "InvalidParameter.DataInspection")
        clock.now_s = 48 * 3600
        assert (await place.native(asked, headers=RESOLVES, **SEEING)).status_code == 200
        clock.now_s += 1
        expired = await place.native(asked, headers=RESOLVES, **SEEING)
        assert "Don't have authorization to access the media resource" in expired.text

    at_simulator(use, clock=clock)


def test_a_form_is_taken_with_a_policy_in_its_time_and_once() -> None:
    clock = Clock()

    async def use(place: Place) -> None:
        issued = await policy(place)
        forged = await post_form(place, issued, Signature="made up")
        assert (forged.status_code, "SignatureDoesNotMatch" in forged.text) == (403, True)
        elsewhere = await post_form(place, issued, key="other/a.png")
        assert elsewhere.status_code == 403
        assert (await post_form(place, issued)).status_code == 200
        assert (await post_form(place, issued)).status_code == 409
        assert (await post_form(place, issued, name="b.png")).status_code == 200
        clock.now_s = 301
        late = await post_form(place, issued, name="c.png")
        assert (late.status_code, "Policy expired" in late.text) == (403, True)
        unsaid = await place.http.get(place.simulator.native_base_url + "/uploads")
        assert unsaid.status_code == 400
        assert place.totals["oss"]["refused"] == 4

    at_simulator(use, clock=clock)


def test_a_field_behind_the_file_does_not_count() -> None:
    async def use(place: Place) -> None:
        issued = await policy(place)
        head, tail = {"key": f"{issued['upload_dir']}/a.png"}, {"policy": issued["policy"]}
        parts = [
            ("key", (None, head["key"])),
            ("file", ("a.png", png(20, 20))),
            ("policy", (None, tail["policy"])),
        ]
        answer = await place.http.post(issued["upload_host"], files=parts)
        assert answer.status_code == 400 and "The form lacks" in answer.text and "policy" in answer.text

    at_simulator(use)


def test_uploads_need_the_key_as_calls_do() -> None:
    async def use(place: Place) -> None:
        assert (await place.upload()).json()["error"]["code"] == "invalid_api_key"
        place.http.headers["Authorization"] = "Bearer sk-right"
        assert (await place.upload()).status_code == 200
        assert (await policy(place))["upload_host"].startswith(place.simulator.url)

    at_simulator(use, Settings(api_key="sk-right"))
