"""An S3 service on loopback: moto's server in a thread, with a door in front that counts requests and may refuse them."""

import re
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from pipeline.results import S3Files
from pipeline.s3 import S3Settings, client, s3_path

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "s3-secret"}
_ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@dataclass
class Asked:
    """One request as the door saw it; `path` with its query, `signed` the key, day and region it was signed with."""

    method: str
    path: str
    signed: str = ""


# The status and the S3 error code to refuse a request with, or None.
Refuse = Callable[[Asked], tuple[int, str] | None]


@dataclass
class S3Server:
    """A service at `url`; `asked` are the requests so far, each put before `refuse`."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    refuse: Refuse = lambda asked: None

    @property
    def env(self) -> dict[str, str]:
        """What a user would set."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": "eu-west-1"}

    @property
    def settings(self) -> S3Settings:
        return S3Settings.from_env(self.env)

    def make_bucket(self, name: str) -> str:
        request = urllib.request.Request(f"{self.url}/{name}", b"", method="PUT")
        with urllib.request.urlopen(request) as response:
            response.read()
        return name

    def put(self, path: str, data: bytes) -> None:
        """Put an object, given as bucket/key."""
        with client(self.settings).open_output_stream(path, compression=None) as stream:
            stream.write(data)

    def get(self, path: str) -> bytes:
        with client(self.settings).open_input_file(path) as file:
            return file.read()

    def keys(self, place: str) -> list[str]:
        """The names of the objects directly below an address."""
        return sorted(S3Files(s3_path(place), self.settings).stamps())


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """A service that listens inside the block."""
    service = S3Server()
    moto = DomainDispatcherApplication(create_backend_app)

    def door(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING")
        signature = re.search(r"Credential=([^,]*)/s3/aws4_request", environ.get("HTTP_AUTHORIZATION", ""))
        asked = Asked(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"] + (f"?{query}" if query else ""),
            signature[1] if signature else "",
        )
        service.asked.append(asked)
        refused = service.refuse(asked)
        if refused is None:
            return moto(environ, start_response)  # type: ignore[no-any-return]
        status, code = refused
        body = b"" if asked.method == "HEAD" else _ERROR.format(code=code, message=f"{code} it is").encode()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} Refused", [("Content-Length", str(len(body)))])
        return [body]

    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=_Quiet)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="s3")
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
