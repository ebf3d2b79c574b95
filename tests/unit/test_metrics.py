"""The metrics file: what Prometheus reads of a run, while it goes on and after."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import run, texts, write_rows


def samples(path: Path) -> dict[str, float]:
    """What stands in the file, by name and the label that is its own."""

    def named() -> Iterator[tuple[str, float]]:
        for family in text_string_to_metric_families(path.read_text()):
            for sample in family.samples:
                labels = dict(sample.labels)
                assert (labels.pop("job"), labels.pop("provider"), labels.pop("model")) == (
                    "j",
                    "compatible",
                    "m",
                )
                yield (
                    sample.name.removeprefix("promptmill_") + "".join(f" {v}" for v in labels.values()),
                    sample.value,
                )

    return dict(named())


def test_the_file_says_how_a_run_ended_and_a_later_failure_keeps_the_last_success(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(10))
    file = tmp_path / "j.prom"
    run(tmp_path, always(answer()), limit=4, metrics=file)
    good = samples(file)
    assert (good["exit_code"], good["running"], good["rows_wanted"], good["rows ok"]) == (0, 0, 4, 4)
    assert (good["tokens total_tokens"], good["sent"], good["maybe_paid"]) == (48, 4, 0)
    assert good["last_success_timestamp_seconds"] == good["last_end_timestamp_seconds"] > 1.7e9
    assert "cost CNY" not in good  # unknown is left out, never 0
    run(tmp_path, always(refusal(401)), metrics=file)
    bad = samples(file)
    assert bad["exit_code"] == 4
    assert bad["last_success_timestamp_seconds"] == good["last_success_timestamp_seconds"]
    assert bad["last_end_timestamp_seconds"] > good["last_end_timestamp_seconds"]


def test_the_file_is_there_while_the_run_goes_on(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(3))
    file = tmp_path / "j.prom"
    seen: list[dict[str, float]] = []

    async def script(row_id: str, nth: int) -> Reply:
        seen.append(samples(file))
        return answer()

    run(tmp_path, FakeTransport(script), "limits.requests_per_minute=6000", metrics=file)
    assert (seen[0]["running"], seen[0]["limit_per_minute requests"], seen[0]["rows_wanted"]) == (1, 6000, 3)
    assert "exit_code" not in seen[0]


def test_figures_that_cannot_be_written_are_a_warning_and_the_rows_are_answered(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(3))
    ended = run(tmp_path, always(answer()), metrics=tmp_path / "gone" / "j.prom")
    assert (ended.exit_code, ended.done) == (0, 3)
    assert "the metrics file" in (tmp_path / "out" / "run.log").read_text()
