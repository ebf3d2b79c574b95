"""S3 and what speaks like it: the one client, what the environment says of it, and its errors in sentences.

The client is Arrow's, over the AWS SDK: it finds credentials by itself (AWS_ACCESS_KEY_ID and its kin, the profile files, the
machine's role), signs, retries what is worth it, and gives up on a server that says nothing. What it does not look for in the
environment is handed to it here. No credential is read by this program.
"""

import configparser
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pyarrow import fs

from pipeline.errors import JobError
from pipeline.proxies import proxy_of

SCHEME = "s3://"
GO_ON = "Run the same command again to go on."
_ATTEMPTS = 5  # of one call, with growing pauses: about ten seconds in all
_TIMEOUT_S = 30.0  # without a byte
_CONNECT_TIMEOUT_S = 10.0
_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during (\w+) operation: (.*)", re.DOTALL)
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where there is one), or AWS_PROFILE"
_CAUSES = {
    "NO_SUCH_BUCKET": "there is no such bucket there",
    "ACCESS_DENIED": f"access is denied: the credentials are missing or wrong, or may not do this; {_CREDENTIALS}",
    "INVALID_ACCESS_KEY_ID": f"the access key is not known there; {_CREDENTIALS}",
    "INVALID_CLIENT_TOKEN_ID": f"the credentials are not known there; {_CREDENTIALS}",
    "SIGNATURE_DOES_NOT_MATCH": f"the secret key is not that of the access key; {_CREDENTIALS}",
    "EXPIRED_TOKEN": f"the credentials have expired; {_CREDENTIALS}",
    "NETWORK_CONNECTION": "the server cannot be reached; look at AWS_ENDPOINT_URL and AWS_REGION",
    "SLOW_DOWN": "the service asks to slow down",
    "301": "the bucket lies in another region; set AWS_REGION",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """What the environment says of S3, besides the credentials. `endpoint` is the address of a service that is not AWS's."""

    endpoint: str | None = None
    region: str | None = None
    ca_file: str | None = None
    proxy: str | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "S3Settings":
        """Read the usual variables, and the endpoint of the profile in the AWS configuration file."""
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None
        endpoint = _endpoint(env)
        if endpoint is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", endpoint):
            raise JobError(
                "the S3 endpoint that the environment names is no address: write https://host, or http://host:port"
            )
        return cls(
            endpoint=endpoint,
            region=region,
            ca_file=env.get("AWS_CA_BUNDLE") or None,
            proxy=proxy_of(endpoint or f"https://s3.{region or 'us-east-1'}.amazonaws.com", env),
        )


def _endpoint(env: Mapping[str, str]) -> str | None:
    if env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or _endpoint_of_profile(env) or None


def _endpoint_of_profile(env: Mapping[str, str]) -> str | None:
    """`endpoint_url` of the profile, that of its S3 service first (AWS SDK reference, "Service-specific endpoints")."""
    file = env.get("AWS_CONFIG_FILE") or (Path(env["HOME"]) / ".aws" / "config" if "HOME" in env else None)
    config = configparser.RawConfigParser(strict=False)
    try:
        if file is None or not config.read(file, encoding="utf-8"):
            return None
    except (configparser.Error, UnicodeDecodeError):  # the SDK decides what to make of it
        return None
    name = env.get("AWS_PROFILE") or "default"
    section = name if name == "default" and config.has_section(name) else f"profile {name}"
    services = config.get(section, "services", fallback=None)
    if services is not None:
        nested = config.get(f"services {services}", "s3", fallback="")
        if found := re.search(r"^\s*endpoint_url\s*=\s*(\S+)", nested, re.MULTILINE):
            return found[1]
    return config.get(section, "endpoint_url", fallback=None)


class S3Path(NamedTuple):
    """A place in a bucket; the key has no slash at its ends."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.path}"

    @property
    def path(self) -> str:
        """As the client wants it."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def below(self, name: str) -> "S3Path":
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)


def is_s3(text: str) -> bool:
    return text.startswith(SCHEME)


def s3_path(url: str) -> S3Path:
    """Read `s3://bucket/key`. Raises JobError where there is no bucket in it, or what no key holds."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    names = key.strip("/").split("/") if key.strip("/") else []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", bucket) or any(
        name in ("", ".", "..") for name in names
    ):
        raise JobError(f"{url!r} is no place on S3: write s3://bucket/folder/name")
    return S3Path(bucket, "/".join(names))


@lru_cache(maxsize=8)
def client(settings: S3Settings) -> fs.S3FileSystem:
    """The client for these settings. Nothing is sent yet."""
    address = urlsplit(settings.endpoint or "")
    scheme: Literal["http", "https"] = "http" if address.scheme == "http" else "https"
    return fs.S3FileSystem(  # type: ignore[call-arg]  # the stubs are older than the client
        endpoint_override=address.netloc + address.path.rstrip("/") or None,
        scheme=scheme,
        region=settings.region,
        tls_ca_file_path=settings.ca_file,
        proxy_options=settings.proxy,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # A file of usual size is one request, which happens or does not.
        allow_delayed_open=True,
    )


class S3Error(OSError):
    """The service refused, failed or could not be reached."""


@contextmanager
def said_plainly(place: S3Path, settings: S3Settings) -> Iterator[None]:
    """Makes of the client's errors within the block an S3Error that says what is wrong with a place, and what to do.

    Other errors, such as of the bytes that came, pass as they are.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {place}") from error
    except OSError as error:
        if isinstance(error, S3Error) or (found := _ERROR.search(str(error))) is None:
            raise
        raise S3Error(f"{place}: {_sentence(found, settings)}") from error


def _sentence(found: re.Match[str], settings: S3Settings) -> str:
    code, status, operation, message = found.groups()
    cause = _CAUSES.get(code) or _CAUSES.get(status or "")
    detail = " ".join(message.split("(Request ID")[0].split())
    at = f" at {settings.endpoint}" if settings.endpoint else ""
    told = f"{code}{f' {status}' if status else ''} during {operation}{at}: {detail}"
    return f"{cause} ({told})" if cause else told
