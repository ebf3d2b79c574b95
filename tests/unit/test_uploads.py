"""Uploads against a mock of the provider: once a content, kept from run to run, within its limits. On virtual time."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.failures import POLICIES, Dialect
from pipeline.media import LocalFile, MediaReader, MediaSettings, limits_of
from pipeline.records import Failure, FailureKind
from pipeline.uploads import FILE_NAME, Deleted, Uploads, UploadsSpec, UploadStore, account_of
from pipeline.vision_tokens import EARLIER_RULE
from tests.support.clock import run_virtual
from tests.support.windows import heaviest_window

KEY = "Bearer sk-never-written-anywhere"
API = "https://api.example/compatible-mode/v1"
NATIVE = "https://api.example/api/v1"
STORAGE = "https://storage.example"
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def form(request: httpx.Request) -> list[tuple[str, str | None, bytes]]:
    """The fields of a multipart form in their order: name, file name, content."""
    head = b"content-type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + request.content)
    fields = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        fields.append((str(name), part.get_filename(), content))
    return fields


@dataclass
class Provider:
    """A mock of files, policies and storage; `refusals` are answered first, in order, by method."""

    processing: int = 0  # how many looks a file is still being read
    quiet: bool = False  # the upload's own answer does not say processed
    policy: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, list[httpx.Response | httpx.HTTPError]] = field(default_factory=dict)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[float, httpx.Request]] = field(default_factory=list)
    looks: Counter[str] = field(default_factory=Counter)
    held: asyncio.Event | None = None

    def refuse(self, method: str, status: int, code: str = "", message: str = "", **headers: str) -> None:
        body = {"error": {"code": code, "message": message}}
        self.refusals.setdefault(method, []).append(httpx.Response(status, json=body, headers=headers))

    def count(self, method: str, path: str) -> int:
        return sum(1 for _, r in self.requests if r.method == method and path in str(r.url))

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append((asyncio.get_running_loop().time(), request))
        if self.held is not None:
            await self.held.wait()
        waiting = self.refusals.get("STORE" if request.url.host == "storage.example" else request.method)
        if waiting:
            refusal = waiting.pop(0)
            if isinstance(refusal, httpx.HTTPError):
                raise refusal
            return refusal
        if request.url.host == "storage.example":
            return self.store(request)
        assert request.headers["authorization"] == KEY
        if request.url.path == "/api/v1/uploads":
            assert dict(request.url.params) == {"action": "getPolicy", "model": "qwen-vl-max"}
            return httpx.Response(200, json={"request_id": "r", "data": self.leave()})
        if request.method == "POST":
            return self.upload(request)
        return self.one_file(request)

    def upload(self, request: httpx.Request) -> httpx.Response:
        assert request.url == f"{API}/files"
        purpose, file = form(request)
        assert purpose[::2] == ("purpose", b"file-extract")
        assert file[0] == "file"
        file_id = f"file-fe-{len(self.files) + 1}"
        self.files[file_id] = (str(file[1]), file[2])
        status = "processing" if self.processing or self.quiet else "processed"
        return httpx.Response(200, json={"id": file_id, "object": "file", "status": status})

    def one_file(self, request: httpx.Request) -> httpx.Response:
        file_id = request.url.path.rpartition("/")[2]
        if file_id not in self.files:
            return httpx.Response(400, json={"code": "InvalidParameter", "message": "File not found."})
        if request.method == "DELETE":
            del self.files[file_id]
            return httpx.Response(200, json={"id": file_id, "deleted": True})
        self.looks[file_id] += 1
        status = "processing" if self.looks[file_id] <= self.processing else "processed"
        return httpx.Response(200, json={"id": file_id, "status": status})

    def leave(self) -> dict[str, Any]:
        return {
            "policy": "p", "signature": "s", "upload_dir": f"instant/{self.count('GET', 'uploads')}",
            "upload_host": STORAGE, "expire_in_seconds": 300, "max_file_size_mb": 100,
            "oss_access_key_id": "LTA", "x_oss_object_acl": "private", "x_oss_forbid_overwrite": "true",
        } | self.policy  # fmt: skip

    def store(self, request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers, "the key went to the storage"
        fields = form(request)
        assert [name for name, _, _ in fields][-1] == "file", "the storage reads nothing behind the file"
        texts = {name: content.decode() for name, _, content in fields[:-1]}
        assert {"OSSAccessKeyId": "LTA", "Signature": "s", "policy": "p"}.items() <= texts.items()
        assert texts["success_action_status"] == "200"
        if texts["key"] in self.objects:
            return httpx.Response(409, content=b"<Error><Code>FileAlreadyExists</Code></Error>")
        self.objects[texts["key"]] = fields[-1][2]
        return httpx.Response(200)


@dataclass
class Bench:
    """A run folder and a provider; each `open` is one run."""

    folder: Path
    provider: Provider = field(default_factory=Provider)
    now: datetime = START

    def open(self, key: str = KEY, **more: Any) -> Uploads:
        spec = {
            "base_url": API, "native_url": NATIVE, "account": account_of(API, key), "model": "qwen-vl-max",
            "dialect": Dialect.DASHSCOPE, "headers": {"Authorization": KEY},
        }  # fmt: skip
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.provider))
        return Uploads(UploadsSpec(**{**spec, **more}), client, UploadStore(self.folder), lambda: self.now)

    def run(self, use: Callable[[Uploads], Awaitable[Any]], **more: Any) -> Any:
        async def main() -> Any:
            uploads = self.open(**more)
            try:
                return await use(uploads)
            finally:
                await uploads.aclose()

        return run_virtual(main())

    def document(self, text: str = "some text", name: str = "a.txt") -> LocalFile:
        (self.folder / name).write_text(text)
        return self.reader().documents(name).files[0]

    def medium(self, content: bytes = b"\x89PNG\r\n\x1a\n" + b"picture") -> LocalFile:
        return LocalFile(
            purpose="media",
            name="a.png",
            mime="image/png",
            size_bytes=len(content),
            digest=digest(content),
            content=content,
        )

    def reader(self) -> MediaReader:
        limits = limits_of("dashscope", "qwen-vl-max")
        return MediaReader(MediaSettings(root=self.folder, rule=EARLIER_RULE, limits=limits))


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def failed(result: Any) -> Failure:
    assert isinstance(result, Failure), result
    assert "sk-never" not in repr(result)
    return result


# Documents


def test_a_document_is_uploaded_under_its_name_and_known_by_its_id(bench: Bench) -> None:
    file = bench.document("héllo", "a.txt")
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    assert bench.provider.files == {"file-fe-1": ("a.txt", "héllo".encode())}


def test_rows_with_one_content_share_one_upload_even_at_the_same_time(bench: Bench) -> None:
    files = [bench.document(f"text {n % 10}", f"{n}.txt") for n in range(100)]

    async def use(uploads: Uploads) -> list[Any]:
        found = await asyncio.gather(*map(uploads.address, files))
        assert await asyncio.gather(*map(uploads.address, files)) == found
        assert uploads.uploaded == 10
        return found

    ids = bench.run(use)
    assert len(set(ids)) == len(bench.provider.files) == 10
    assert [ids[n] == ids[n + 10] for n in range(90)] == [True] * 90


def test_uploads_keep_to_three_a_second(bench: Bench) -> None:
    files = [bench.document(f"text {n}", f"{n}.txt") for n in range(20)]
    bench.run(lambda u: asyncio.gather(*map(u.address, files)))
    sent = [(at, 1.0) for at, request in bench.provider.requests if request.method == "POST"]
    assert len(sent) == 20
    assert heaviest_window(sent, 0.999) <= 3
    assert sent[-1][0] - sent[0][0] == pytest.approx(19 / 3, rel=0.01)


def test_a_later_run_uses_the_same_id_once_it_has_seen_that_it_is_there(bench: Bench) -> None:
    file = bench.document()
    for _ in range(3):
        assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    assert bench.provider.count("POST", "/files") == 1
    assert bench.provider.count("GET", "/files/") == 2


@pytest.mark.parametrize(
    "gone", [(400, "InvalidParameter", "File not found."), (404, "", "no"), (400, "", "Invalid file [id:x].")]
)
def test_a_file_that_is_gone_is_uploaded_again(bench: Bench, gone: tuple[int, str, str]) -> None:
    file = bench.document()
    bench.run(lambda u: u.address(file))
    bench.provider.refuse("GET", *gone)
    assert bench.run(lambda u: u.address(file)) == "file-fe-2"
    assert bench.run(lambda u: u.address(file)) == "file-fe-2"


def test_a_file_deleted_during_the_run_is_found_out_when_asked_to_look_again(bench: Bench) -> None:
    file = bench.document()

    async def use(uploads: Uploads) -> tuple[Any, Any]:
        await uploads.address(file)
        bench.provider.files.clear()
        blind = await uploads.address(file)
        uploads.look_again([file])
        bench.provider.files["another"] = ("", b"")
        return blind, await uploads.address(file)

    assert bench.run(use) == ("file-fe-1", "file-fe-2")


def test_another_account_uploads_for_itself_and_no_key_is_written(bench: Bench) -> None:
    file = bench.document()
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    assert bench.run(lambda u: u.address(file), key="Bearer another") == "file-fe-2"
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    for path in bench.folder.glob(f"{FILE_NAME}*"):
        assert b"sk-never" not in path.read_bytes()
    assert (bench.folder / FILE_NAME).stat().st_mode & 0o077 == 0


def test_an_upload_waits_until_the_document_is_read(bench: Bench) -> None:
    bench.provider.processing = 4
    file = bench.document()

    async def use(uploads: Uploads) -> float:
        began = asyncio.get_running_loop().time()
        assert await uploads.address(file) == "file-fe-1"
        return asyncio.get_running_loop().time() - began

    assert bench.run(use) == pytest.approx(0.5 + 1 + 2 + 4, abs=0.5)
    assert bench.provider.looks["file-fe-1"] == 5


def test_the_wait_is_bounded_and_the_next_run_goes_on_with_the_same_file(bench: Bench) -> None:
    bench.provider.processing = 10_000
    file = bench.document()
    failure = failed(bench.run(lambda u: u.address(file), ready_timeout_s=60))
    assert (failure.kind, failure.code) == (FailureKind.NOT_READY, "file_processing")
    bench.provider.processing = 0
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    assert bench.provider.count("POST", "/files") == 1


def test_a_document_that_the_provider_cannot_read_fails_its_rows_and_is_not_kept(bench: Bench) -> None:
    bench.provider.quiet = True
    bench.provider.refusals["GET"] = [
        httpx.Response(200, json={"status": "error", "status_details": "content blank"})
    ]
    file = bench.document()
    failure = failed(bench.run(lambda u: u.address(file)))
    assert failure.kind is FailureKind.INVALID_INPUT
    assert "content blank" in failure.message
    bench.provider.quiet = False
    assert bench.run(lambda u: u.address(file)) == "file-fe-2"


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(503, json={"error": {"code": "ServiceUnavailable", "message": "busy"}}),
        httpx.Response(429, json={"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}),
        httpx.Response(400, json={"error": {"message": "File parsing in progress, please try again later."}}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_may_pass_is_tried_again_with_the_whole_content(
    bench: Bench, method: str, trouble: httpx.Response | httpx.HTTPError
) -> None:
    bench.provider.quiet = True
    bench.provider.refusals[method] = [trouble, trouble]
    file = bench.document("whole")
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"
    assert bench.provider.files["file-fe-1"][1] == b"whole"


def test_retry_after_is_waited_for(bench: Bench) -> None:
    bench.provider.refuse("POST", 429, "limit_requests", "slow down", **{"retry-after": "120"})
    file = bench.document()
    bench.run(lambda u: u.address(file))
    first, second = [at for at, request in bench.provider.requests if request.method == "POST"]
    assert second - first >= 120


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (401, "invalid_api_key", "Incorrect API key provided.", FailureKind.AUTH),
        (
            400,
            "Arrearage",
            "Access denied, please make sure your account is in good standing.",
            FailureKind.ARREARS,
        ),
        (400, "invalid_parameter_error", "File [a.txt] content blank.", FailureKind.INVALID_REQUEST),
        (400, "invalid_parameter_error", "File [a.txt] exceeds size limit.", FailureKind.TOO_LARGE),
        (
            403,
            "AllocationQuota.FreeTierOnly",
            "The free tier of the model has been exhausted",
            FailureKind.QUOTA_EXHAUSTED,
        ),
    ],
)
def test_what_cannot_pass_is_a_failure_of_its_kind_at_once(
    bench: Bench, status: int, code: str, message: str, kind: FailureKind
) -> None:
    bench.provider.refuse("POST", status, code, message)
    failure = failed(bench.run(lambda u: u.address(bench.document())))
    assert (failure.kind, failure.code, failure.http_status) == (kind, code, status)
    assert failure.message == message
    assert not failure.maybe_paid
    assert len(bench.provider.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "The number of files exceeds the limit 10000.",
        "File storage quota exceeded.",
        "Upload file number exceed limit.",
    ],
)
def test_a_full_account_is_said_with_what_to_do(bench: Bench, message: str) -> None:
    bench.provider.refuse("POST", 400, "invalid_parameter_error", message)
    failure = failed(bench.run(lambda u: u.address(bench.document())))
    assert failure.code == "file_quota"
    assert POLICIES[failure.kind].ends == "run"
    assert (
        "10,000" in failure.message and 'files = "delete"' in failure.message and message in failure.message
    )


def test_attempts_are_bounded_and_the_next_row_begins_anew(bench: Bench) -> None:
    for _ in range(3):
        bench.provider.refuse("POST", 503, "ServiceUnavailable", "busy")
    file = bench.document()

    async def use(uploads: Uploads) -> tuple[Any, Any]:
        return await uploads.address(file), await uploads.address(file)

    first, second = bench.run(use, max_attempts=3)
    assert failed(first).kind is FailureKind.OVERLOADED
    assert second == "file-fe-1"


def test_a_failure_reaches_every_row_that_waited(bench: Bench) -> None:
    bench.provider.refuse("POST", 400, "invalid_parameter_error", "no")
    file = bench.document()
    results = bench.run(lambda u: asyncio.gather(*(u.address(file) for _ in range(5))))
    assert {failed(result).message for result in results} == {"no"}
    assert bench.provider.count("POST", "/files") == 1


def test_a_row_that_is_cancelled_leaves_the_upload_to_the_others(bench: Bench) -> None:
    file = bench.document()

    async def use(uploads: Uploads) -> Any:
        bench.provider.held = asyncio.Event()
        first = asyncio.ensure_future(uploads.address(file))
        second = asyncio.ensure_future(uploads.address(file))
        while not bench.provider.requests:
            await asyncio.sleep(0)
        first.cancel()
        bench.provider.held.set()
        return await second

    assert bench.run(use) == "file-fe-1"
    assert bench.provider.count("POST", "/files") == 1


def test_closing_stops_what_is_under_way(bench: Bench) -> None:
    file = bench.document()

    async def use(uploads: Uploads) -> None:
        bench.provider.held = asyncio.Event()
        waiting = asyncio.ensure_future(uploads.address(file))
        while not bench.provider.requests:
            await asyncio.sleep(0)
        await uploads.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    bench.run(use)
    assert bench.provider.files == {}


def test_an_upload_is_recorded_only_after_it_succeeded(bench: Bench) -> None:
    file = bench.document()
    bench.provider.refusals["POST"] = [httpx.ReadError("cut after the file was taken")]
    failed(bench.run(lambda u: u.address(file), max_attempts=1))
    with UploadStore(bench.folder) as store:
        assert store.files(account_of(API, KEY)) == []
    assert bench.run(lambda u: u.address(file)) == "file-fe-1"


@pytest.mark.parametrize("change", ["touch", "rewrite", "remove"])
def test_a_file_that_changed_since_its_row_was_rendered_is_not_sent(bench: Bench, change: str) -> None:
    file = bench.document("as rendered")
    path = bench.folder / "a.txt"
    if change == "rewrite":
        path.write_text("something else")
    elif change == "remove":
        path.unlink()
    else:
        path.write_text("as rendered")
    result = bench.run(lambda u: u.address(file))
    if change == "touch":
        assert result == "file-fe-1", "the same content is the same document"
    else:
        assert failed(result).kind is FailureKind.INVALID_INPUT
        assert bench.provider.files == {}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id":7}', b"<html>", b'{"error":{"code":"InternalError"}}']
)
def test_an_answer_that_makes_no_sense_is_a_failure(bench: Bench, body: bytes) -> None:
    bench.provider.refusals["POST"] = [httpx.Response(200, content=body)] * 9
    failed(bench.run(lambda u: u.address(bench.document())))


def test_delete_all_deletes_what_this_folder_uploaded_and_forgets_it(bench: Bench) -> None:
    files = [bench.document(f"text {n}", f"{n}.txt") for n in range(5)]
    bench.run(lambda u: asyncio.gather(*map(u.address, files)))
    bench.provider.files["somebody-elses"] = ("", b"")
    del bench.provider.files["file-fe-3"]  # by hand, in the console
    assert bench.run(lambda u: u.delete_all()) == Deleted(5, [])
    assert list(bench.provider.files) == ["somebody-elses"]
    assert bench.run(lambda u: u.delete_all()) == Deleted(0, [])


def test_what_could_not_be_deleted_stays_known(bench: Bench) -> None:
    files = [bench.document(f"text {n}", f"{n}.txt") for n in range(2)]
    bench.run(lambda u: asyncio.gather(*map(u.address, files)))
    bench.provider.refuse("DELETE", 401, "invalid_api_key", "Incorrect API key provided.")
    deleted = bench.run(lambda u: u.delete_all())
    assert (deleted.files, [failure.kind for failure in deleted.failures]) == (1, [FailureKind.AUTH])
    assert bench.run(lambda u: u.delete_all()) == Deleted(1, [])


def test_queries_and_deletions_keep_to_ten_a_second(bench: Bench) -> None:
    bench.provider.quiet = True
    files = [bench.document(f"text {n}", f"{n}.txt") for n in range(30)]
    bench.run(lambda u: asyncio.gather(*map(u.address, files)))
    bench.run(lambda u: asyncio.gather(*map(u.address, files)))
    bench.run(lambda u: u.delete_all())
    asked = [(at, 1.0) for at, request in bench.provider.requests if request.method != "POST"]
    assert len(asked) == 90
    for start in (0, 30, 60):  # each run begins at the same virtual time
        assert heaviest_window(asked[start : start + 30], 0.999) <= 10


# Temporary storage


def test_a_medium_becomes_an_oss_url_and_its_bytes_are_stored(bench: Bench) -> None:
    url = bench.run(lambda u: u.address(bench.medium()))
    assert url.startswith("oss://instant/1/") and url.endswith(".png")
    assert bench.provider.objects == {url.removeprefix("oss://"): b"\x89PNG\r\n\x1a\npicture"}


def test_one_policy_serves_until_it_is_about_to_expire(bench: Bench) -> None:
    async def use(uploads: Uploads) -> None:
        await asyncio.gather(*(uploads.address(bench.medium(b"%d" % n)) for n in range(20)))
        await asyncio.sleep(239)
        await uploads.address(bench.medium(b"still"))
        assert bench.provider.count("GET", "/uploads") == 1
        await asyncio.sleep(2)
        await uploads.address(bench.medium(b"anew"))
        assert bench.provider.count("GET", "/uploads") == 2

    bench.run(use)
    assert len(bench.provider.objects) == 22


def test_a_url_is_used_again_until_it_would_expire_too_soon(bench: Bench) -> None:
    medium = bench.medium()
    first = bench.run(lambda u: u.address(medium))
    bench.now = START + timedelta(hours=46, minutes=59)
    assert bench.run(lambda u: u.address(medium)) == first
    bench.now = START + timedelta(hours=47, minutes=1)
    second = bench.run(lambda u: u.address(medium))
    assert second != first
    bench.now += timedelta(hours=40)
    assert bench.run(lambda u: u.address(medium)) == second
    assert len(bench.provider.objects) == 2


def test_a_url_is_bound_to_account_and_model(bench: Bench) -> None:
    medium = bench.medium()
    first = bench.run(lambda u: u.address(medium))
    bench.now += timedelta(seconds=1)
    assert bench.run(lambda u: u.address(medium), key="Bearer another") != first
    bench.now += timedelta(seconds=1)
    with UploadStore(bench.folder) as store:
        later = bench.now.timestamp()
        assert (
            store.temporary_url(account_of(API, KEY), "qwen-vl-max", medium.digest, valid_at_s=later) == first
        )
        assert (
            store.temporary_url(account_of(API, KEY), "qwen3-vl-plus", medium.digest, valid_at_s=later)
            is None
        )


def test_a_policy_that_expired_by_the_providers_clock_is_renewed_at_once(bench: Bench) -> None:
    expired = b"<Error><Code>AccessDenied</Code><Message>Invalid according to Policy: Policy expired.</Message></Error>"
    bench.provider.refusals["STORE"] = [httpx.Response(403, content=expired)]
    assert bench.run(lambda u: u.address(bench.medium())).startswith("oss://instant/2/")


def test_a_storage_that_refuses_for_good_ends_the_row_and_not_the_run(bench: Bench) -> None:
    refused = httpx.Response(
        403, content=b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
    )
    bench.provider.refusals["STORE"] = [refused, refused]
    failure = failed(bench.run(lambda u: u.address(bench.medium())))
    assert (failure.kind, failure.code) == (FailureKind.INVALID_REQUEST, "SignatureDoesNotMatch")
    assert POLICIES[failure.kind].ends == "row"


def test_a_storage_that_is_busy_is_tried_again(bench: Bench) -> None:
    bench.provider.refusals["STORE"] = [
        httpx.Response(503),
        httpx.WriteError("cut"),
        httpx.ReadTimeout("slow"),
    ]
    assert bench.run(lambda u: u.address(bench.medium())).startswith("oss://")


def test_a_medium_above_the_policys_bound_is_not_sent(bench: Bench) -> None:
    bench.provider.policy = {"max_file_size_mb": "0.00001"}
    failure = failed(bench.run(lambda u: u.address(bench.medium())))
    assert failure.kind is FailureKind.TOO_LARGE
    assert bench.provider.count("POST", STORAGE) == 0


@pytest.mark.parametrize(
    "policy", [{"upload_host": None}, {"upload_host": "ftp://h"}, {"signature": None}, {"upload_dir": 1}]
)
def test_a_policy_that_lacks_something_is_a_failure(bench: Bench, policy: dict[str, Any]) -> None:
    bench.provider.policy = policy
    assert failed(bench.run(lambda u: u.address(bench.medium()))).code == "no_policy"


def test_a_file_never_travels_with_less_protection_than_the_key(bench: Bench) -> None:
    bench.provider.policy = {"upload_host": STORAGE.replace("https://", "http://")}
    assert failed(bench.run(lambda u: u.address(bench.medium()))).code == "no_policy"
    assert not bench.provider.objects


def test_a_storage_that_repeats_the_policys_signature_shows_none_of_it(bench: Bench) -> None:
    said = (
        b"<Error><Code>SignatureDoesNotMatch</Code><Message>No match, see https://h/?Signature=s3cret</Message>"
        b"<OSSAccessKeyId>LTA-s3cret</OSSAccessKeyId><StringToSign>s3cret</StringToSign></Error>"
    )
    bench.provider.refusals["STORE"] = [httpx.Response(403, content=said)] * 2
    failure = failed(bench.run(lambda u: u.address(bench.medium())))
    assert failure.message == "temporary storage: No match, see https://h/?Signature=***"
    assert "s3cret" not in repr(failure)


def test_without_a_native_url_there_is_no_storage(bench: Bench) -> None:
    failure = failed(bench.run(lambda u: u.address(bench.medium()), native_url=None))
    assert failure.kind is FailureKind.INVALID_INPUT


# Placing


def test_markers_in_messages_become_addresses_and_the_messages_given_stay(bench: Bench) -> None:
    document, medium = bench.document(), bench.medium()
    messages = [
        {"role": "system", "content": "You answer from documents. fileid://x"},
        {"role": "system", "content": f"fileid://{document.marker},fileid://file-fe-known"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": medium.marker},
                {"type": "image_url", "image_url": {"url": medium.marker, "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://h/a.png"}},
                {"type": "video", "video": [medium.marker, "https://h/b.png"], "fps": 2},
            ],
        },
        {"role": "user", "content": f"fileid://{document.marker}"},
    ]
    before = json.dumps(messages)
    placed = bench.run(lambda u: u.place(messages, [document, medium, medium]))
    assert json.dumps(messages) == before
    [url] = [f"oss://{key}" for key in bench.provider.objects]
    text, image, link, video = placed[2]["content"]
    assert placed[0] == messages[0]
    assert placed[1]["content"] == "fileid://file-fe-1,fileid://file-fe-known"
    assert text["text"] == medium.marker, "a text is never rewritten"
    assert image["image_url"] == {"url": url, "detail": "low"}
    assert link["image_url"]["url"] == "https://h/a.png"
    assert (video["video"], video["fps"]) == ([url, "https://h/b.png"], 2)
    assert placed[3] == messages[3], "only a system message names documents"


def test_one_file_that_fails_fails_the_row(bench: Bench) -> None:
    bench.provider.refuse("POST", 400, "invalid_parameter_error", "no")
    good, bad = bench.medium(), bench.document()
    assert failed(bench.run(lambda u: u.place([], [good, bad]))).message == "no"


def test_what_the_reader_makes_of_a_row_can_be_placed(bench: Bench) -> None:
    for name in ("a.txt", "b.md"):
        (bench.folder / name).write_text(name)
    documents = bench.reader().documents(["a.txt", "b.md"])
    placed = bench.run(lambda u: u.place(documents.messages, documents.files))
    assert sorted(placed[0]["content"].split(",")) == ["fileid://file-fe-1", "fileid://file-fe-2"]
    assert [
        bench.provider.files[one.removeprefix("fileid://")][0] for one in placed[0]["content"].split(",")
    ] == [
        "a.txt",
        "b.md",
    ]


def test_the_thousand_rows_of_a_hundred_documents_cost_a_hundred_uploads(bench: Bench) -> None:
    names = [f"{n}.txt" for n in range(100)]
    for name in names:
        (bench.folder / name).write_text(name)
    reader = bench.reader()

    async def use(uploads: Uploads) -> None:
        rows = [reader.documents(names[n % 100]) for n in range(1000)]
        placed = await asyncio.gather(*(uploads.place(row.messages, row.files) for row in rows))
        assert len({messages[0]["content"] for messages in placed}) == 100

    bench.run(use)
    assert len(bench.provider.files) == 100
