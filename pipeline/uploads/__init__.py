"""Uploads: documents through the Files API, large media to the provider's temporary storage; each content once.

    store.py      what is uploaded already: a SQLite file in the run folder, kept from run to run
    calls.py      one HTTP call, judged: an answer, or a `Failure` by the one table of failures
    service.py    `Uploads`: content to file id or `oss://` URL, shared by all rows that need it

Which files a row needs, and whether they may be read at all, is decided in `media`.
"""

from pipeline.uploads.calls import OSS_HEADER
from pipeline.uploads.service import Deleted, Uploads, UploadsSpec, account_of
from pipeline.uploads.store import FILE_NAME, UploadStore

__all__ = ["FILE_NAME", "OSS_HEADER", "Deleted", "UploadStore", "Uploads", "UploadsSpec", "account_of"]
