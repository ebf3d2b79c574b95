"""What tests of several kinds share and must start but once."""

from collections.abc import Iterator

import pytest

from tests.support.s3 import CREDENTIALS, S3Server, serving_s3


@pytest.fixture(scope="module")
def _s3() -> Iterator[S3Server]:
    with serving_s3() as server:
        yield server


@pytest.fixture
def s3(_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 service; this process has the credentials for it, too."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    _s3.asked.clear()
    yield _s3
    _s3.refuse = lambda asked: None
