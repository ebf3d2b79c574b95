"""What tests of several kinds share: a folder in memory, and what must be started but once."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from tests.support.s3 import CREDENTIALS, S3Server, serving_s3

# An example may wait for its core as long as the machine lets it: what it takes by the clock is no figure of ours.
settings.register_profile("by no clock", parent=settings.default, deadline=None)
settings.load_profile("by no clock")

_MEMORY = Path("/dev/shm")


@pytest.fixture
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, or on the disk where a system has no such: for tests that sync small files thousands of times.

    They judge what was written and in what order; a disk adds nothing to that but minutes, where others use it as well.
    """
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with TemporaryDirectory(prefix="promptmill-tests-", dir=_MEMORY) as folder:
        yield Path(folder)


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
