"""Input and output on S3, by the command line against moto's server: parts there, the journal here."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Workplace
from tests.support.provider import Provider
from tests.support.s3 import Asked, S3Server

ROWS = 40


class Bucket:
    """A bucket of the test's own, with the rows of a workplace in it."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.server = server
        self.name = server.make_bucket(name)

    def rows(self) -> pl.DataFrame:
        """All parts there are."""
        parts = self.server.keys(f"{self.url}/out/results")
        tables = [
            pq.read_table(pa.BufferReader(self.server.get(f"{self.name}/out/results/{p}"))) for p in parts
        ]
        return pl.concat([pl.DataFrame(table) for table in tables])

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    @property
    def parts(self) -> list[str]:
        return self.server.keys(f"{self.url}/out/results")

    def is_whole(self) -> bool:
        return self.rows()["row_id"].to_list() == [f"r{n}" for n in range(ROWS)]


@pytest.fixture
def bucket(place: Workplace, s3: S3Server, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """The workplace's rows and results are on S3, its state in the folder `state`; parts of ten rows."""
    bucket = Bucket(s3, f"test-{abs(hash(request.node.name)):x}")
    s3.put(f"{bucket.name}/in/rows.jsonl", (place.folder / "rows.jsonl").read_bytes())
    job = place.folder / "job.toml"
    text = job.read_text(encoding="utf-8").replace('path = "rows.jsonl"', f'path = "{bucket.url}/in/*.jsonl"')
    output = f'path = "{bucket.url}/out"\nstate = "state"\nrows_per_part = 10'
    job.write_text(text.replace('path = "out"', output), encoding="utf-8")
    place.promptmill.env.update(s3.env)
    yield bucket


def state(place: Workplace) -> Path:
    return place.folder / "state"


def test_a_run_from_s3_to_s3_is_as_one_on_this_machine(
    place: Workplace, provider: Provider, bucket: Bucket
) -> None:
    place.point_at(provider)
    with place.promptmill.started(
        "run", "job.toml"
    ) as run:  # not forked: how it is shut down is looked at, too
        ended = run.end()
    assert (ended.code, ended.summary["done"], bucket.is_whole()) == (0, ROWS, True)
    assert bucket.parts == [f"part-0000{n}.parquet" for n in range(4)]
    assert ended.summary["results"] == f"{bucket.url}/out/results"
    assert f"results: {bucket.url}/out/results/*.parquet (40 of 40 rows)" in ended.stderr
    assert "labels: positive " in ended.stderr
    assert "/arrow/" not in ended.stderr  # what its C++ says when it is not shut down well
    assert sorted(path.name for path in state(place).iterdir()) == [
        "journal.sqlite",
        "run.json",
        "run.lock",
        "run.log",
    ]
    assert json.loads((state(place) / "run.json").read_text())["output"] == f"{bucket.url}/out"
    again = place.run()
    assert (again.code, again.summary["sent"]) == (0, 0)
    assert "finished, 40 of 40 rows" in place.promptmill("status", "state").stdout
    assert place.promptmill("export", "state", "-o", "all.csv").code == 0
    assert "40 of 40" in place.promptmill("report", "state").stdout
    assert pl.read_csv(place.folder / "all.csv")["row_id"].to_list() == [f"r{n}" for n in range(ROWS)]
    check = place.promptmill("check", "job.toml")
    assert (check.code, f"output    {bucket.url}/out (state in {state(place)})" in check.stdout) == (0, True)


def test_no_credential_is_written_anywhere(place: Workplace, provider: Provider, bucket: Bucket) -> None:
    place.point_at(provider)
    ended = place.run()
    kept = b"".join(path.read_bytes() for path in state(place).iterdir())
    for secret in ("s3-secret", "AKIATEST"):
        assert secret not in ended.stdout + ended.stderr
        assert secret.encode() not in kept


def test_a_run_killed_after_parts_went_up_goes_on_with_nothing_lost_and_nothing_paid_twice(
    place: Workplace, provider: Provider, bucket: Bucket
) -> None:
    place.point_at(provider)
    provider.hold_after(26)
    with place.promptmill.started("run", "job.toml") as run:
        run.until(
            lambda: provider.held == 4 and len(bucket.parts) == 2, "two parts are up and four rows asked"
        )
        run.send(signal.SIGKILL)
        run.kill()
    provider.release()
    ended = place.run()
    assert (ended.code, ended.summary["done"], bucket.is_whole()) == (0, ROWS, True)
    assert provider.ledger.repeated <= 4
    assert ended.summary["maybe_paid"] == 4


def test_an_upload_that_is_refused_ends_the_run_and_the_same_command_goes_on(
    place: Workplace, provider: Provider, bucket: Bucket, s3: S3Server
) -> None:
    place.point_at(provider)
    s3.refuse = lambda asked: (
        (403, "AccessDenied") if asked.method == "PUT" and "part-00001" in asked.path else None
    )
    ended = place.run()
    assert (ended.code, ended.stdout) == (1, "")
    assert f"the run folder {bucket.url}/out/results cannot be written any more: " in ended.stderr
    assert f"{bucket.url}/out/results/part-00001.parquet: access is denied" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "/arrow/" not in ended.stderr
    assert "part-00001.parquet" not in bucket.parts
    s3.refuse = lambda asked: None
    again = place.run()
    assert (again.code, again.summary["done"], bucket.is_whole()) == (0, ROWS, True)
    assert provider.ledger.repeated == 0


def test_a_service_that_fails_now_and_then_is_not_noticed(
    place: Workplace, provider: Provider, bucket: Bucket, s3: S3Server
) -> None:
    place.point_at(provider)
    failed: set[str] = set()

    def refuse(asked: Asked) -> tuple[int, str] | None:
        """Every upload fails once, and the first of all other requests."""
        what = asked.path if asked.method == "PUT" else asked.method
        if what in failed:
            return None
        failed.add(what)
        return 503, "SlowDown"

    s3.refuse = refuse
    ended = place.run()
    assert (ended.code, bucket.is_whole(), len(failed) >= 7) == (0, True, True), ended.stderr


def test_a_part_overwritten_there_is_set_aside_and_its_rows_done_again(
    place: Workplace, provider: Provider, bucket: Bucket, s3: S3Server
) -> None:
    place.point_at(provider)
    place.run()
    s3.put(f"{bucket.name}/out/results/part-00002.parquet", b"no part")
    damaged = place.promptmill("export", "state", "-o", "all.csv")
    assert (damaged.code, "part-00002.parquet is damaged" in damaged.stderr) == (2, True)
    ended = place.run()
    assert (ended.code, ended.summary["sent"], bucket.is_whole()) == (0, 10, True)
    assert f"it lies now at {bucket.url}/out/damaged/part-00002.parquet" in ended.stderr
    assert s3.get(f"{bucket.name}/out/damaged/part-00002.parquet") == b"no part"


def test_a_state_that_is_lost_is_made_anew_from_the_parts(
    place: Workplace, provider: Provider, bucket: Bucket
) -> None:
    place.point_at(provider)
    place.run()
    shutil.rmtree(state(place))
    ended = place.run()
    assert (ended.code, ended.summary["sent"], ended.summary["done"]) == (0, 0, ROWS)
    assert ended.summary["maybe_paid"] is None


def test_a_state_belongs_to_one_output(place: Workplace, provider: Provider, bucket: Bucket) -> None:
    place.point_at(provider)
    place.run()
    refused = place.run("--output", f"{bucket.url}/elsewhere")
    assert (refused.code, refused.stdout) == (2, "")
    assert f"knows of lie in {bucket.url}/out/results; output.path now says" in refused.stderr
    assert provider.ledger.received == ROWS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "s3://no-bucket-of-this-name/out"), "there is no such bucket there"),
        (("--input", "s3://no-bucket-of-this-name/rows.jsonl"), "there is no such bucket there"),
        (("--input", "s3://{bucket}/none.jsonl"), "There is no dataset at s3://{bucket}/none.jsonl"),
        (
            ("--set", "output.state=null"),
            'say where on this machine it is kept between runs, with state = "folder"',
        ),
        (
            ("--set", "input.root=s3://{bucket}/in"),
            "only input.path and output.path may lie elsewhere, on s3://",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_sent(
    place: Workplace, provider: Provider, bucket: Bucket, arguments: tuple[str, ...], said: str
) -> None:
    place.point_at(provider)
    filled = [argument.format(bucket=bucket.name) for argument in arguments]
    ended = place.run(*filled)
    assert (ended.code, ended.stdout, provider.ledger.received) == (2, "", 0)
    assert said.format(bucket=bucket.name) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_who_may_not_write_is_told_before_anything_is_sent(
    place: Workplace, provider: Provider, bucket: Bucket, s3: S3Server
) -> None:
    place.point_at(provider)
    s3.refuse = lambda asked: (403, "AccessDenied") if asked.method == "PUT" else None
    ended = place.run()
    assert (ended.code, ended.stdout, provider.ledger.received) == (2, "", 0)
    assert f"results cannot be written to {bucket.url}/out/results: " in ended.stderr
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in ended.stderr


def test_a_service_that_cannot_be_reached_is_told_before_anything_is_sent(
    place: Workplace, provider: Provider, bucket: Bucket
) -> None:
    place.point_at(provider)
    ended = place.run(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert (ended.code, ended.stdout, provider.ledger.received) == (2, "", 0)
    assert "the server cannot be reached; look at AWS_ENDPOINT_URL" in ended.stderr


def test_credentials_region_and_endpoint_may_come_from_a_profile(
    place: Workplace, provider: Provider, bucket: Bucket, s3: S3Server
) -> None:
    place.point_at(provider)
    for name in s3.env:
        del place.promptmill.env[name]
    aws = place.folder / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text("[lake]\naws_access_key_id = AKIALAKE\naws_secret_access_key = secret\n")
    (aws / "config").write_text(f"[profile lake]\nregion = ap-southeast-1\nendpoint_url = {s3.url}\n")
    s3.asked.clear()
    ended = place.run(AWS_PROFILE="lake")
    assert (ended.code, bucket.is_whole()) == (0, True)
    puts = [asked.signed for asked in s3.asked if asked.method == "PUT"]
    assert len(puts) >= 4
    assert {(key, region) for key, _, region in (one.split("/") for one in puts)} == {
        ("AKIALAKE", "ap-southeast-1")
    }


def test_results_may_lie_in_another_folder_than_the_state(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    ended = place.run("--set", "output.state=state")
    assert (ended.code, ended.summary["results"]) == (0, str(place.out / "results"))
    assert [path.name for path in place.out.iterdir()] == ["results"]
    assert pl.read_parquet(place.out / "results").height == ROWS
    assert place.promptmill("export", "state", "-o", "all.csv").code == 0
    assert place.run("--set", "output.state=state").summary["sent"] == 0
