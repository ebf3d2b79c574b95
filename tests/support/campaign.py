"""A campaign of kills: a run is killed at moments drawn by chance and started again until it ends, and judged after each kill.

What must hold is written here, once for all campaigns; which works are killed how often is the tests' choice. With a provider
that refuses nothing, the way of each request that a run has begun is known exactly:

    begun -> received and billed -> its outcome on disk
      |                          '-> lost: no outcome on disk when the run was killed
      '-> unsent: committed as begun and never received: killed between the commit and the send

    maybe_paid = lost + unsent           lost = requests billed - rows

`lost` is counted from the ledger and the outcomes on disk alone, `unsent` by what the journal holds and the ledger does not.
"""

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from tests.support.cli import CommandLine, Ended
from tests.support.disk import Left, PartReader, left_in
from tests.support.lives import How, begun
from tests.support.moments import Change, Moment, changed, lives_until
from tests.support.witness import Count, Event, Witness
from tests.support.works import Work, digest

# What differs from run to run: times, the run, and the ids that the simulator gives each request.
PER_RUN = ["started_at", "latency_ms", "first_token_ms", "queue_ms", "run_id", "request_id"]


class Aim(NamedTuple):
    """When a life is killed: `delay_s` after the `nth` event of a kind, or after its start."""

    name: str
    at: Change | Event | None
    nth: int
    delay_s: float


@dataclass
class Figures:
    """What a campaign came to, over all its runs.

    `in_flight` requests had no outcome at a kill: `lost` and `unsent` ones, where a witness tells them apart. `signs` count the
    kills that interrupted something.
    """

    kills: int = 0
    rows: int = 0
    aims: Counter[str] = field(default_factory=Counter)
    hows: Counter[str] = field(default_factory=Counter)
    signs: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    lost: int = 0
    unsent: int = 0
    uploads: int = 0
    uploads_again: int = 0

    def add(self, other: "Figures") -> None:
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        lines = [
            f"{self.kills} kills over {self.rows:,} rows: {self.in_flight:,} requests in flight, of which {self.lost:,} billed "
            f"and lost, {self.unsent:,} never received; {self.uploads:,} uploads, {self.uploads_again:,} of them once more"
        ]
        for title, counts in (("killed", self.aims), ("started", self.hows), ("when", self.signs)):
            lines += [f"  {title} {name}: {count}" for name, count in sorted(counts.items())]
        return "\n".join(lines)


def aim_of(work: Work, random: Random, after: Left, *, witnessed: bool) -> Aim:
    """Draw a moment; what the kill before left makes some of them likelier."""
    soon_s = random.choice([0.0, random.uniform(0, 0.0005), random.uniform(0, 0.003)])
    few, many = random.randint(1, 4), random.randint(1, 3 * work.at_once)
    aims = [
        (3, Aim("at any time", None, 0, random.uniform(0, 2 * work.lasts_s))),
        (3, Aim("at the start", None, 0, random.uniform(0, 0.15))),
        (3, Aim("at a commit of the journal", Change.COMMIT, random.randint(1, 80), soon_s)),
        (2, Aim("as a part is begun", Change.PART_BEGUN, few, soon_s)),
        (2, Aim("as a part is written", Change.PART_WRITTEN, few, soon_s)),
        (2, Aim("as a part is renamed", Change.PART_RENAMED, few, soon_s)),
        (1, Aim("as run.json is written", Change.RUN_FILE, 1, soon_s)),
    ]
    if witnessed:
        aims += [
            (2, Aim("as a request is received", Event.RECEIVED, many, soon_s)),
            (2, Aim("as an answer is sent", Event.ANSWERED, many, soon_s)),
        ]
    if work.files:
        aims += [
            (6, Aim("as an upload begins", Event.UPLOAD_BEGUN, few, random.uniform(0, 0.01))),
            (3, Aim("as an upload is answered", Event.UPLOAD_ANSWERED, few, soon_s)),
            (3, Aim("as an upload is recorded", Change.UPLOAD_KEPT, 1 + few, soon_s)),
        ]
    if after.signs or after.begun:
        repairs = [(Change.COMMIT, random.randint(1, 6)), (Change.RUN_FILE, 1)]
        if "a part was being written" in after.signs:
            repairs.append((Change.SCRATCH_CLEARED, 1))
        aims += [
            (5, Aim("during the repair after a kill", *random.choice(repairs), soon_s)),
            (2, Aim("again at once", None, 0, random.uniform(0, 0.04))),
        ]
    return random.choices([aim for _, aim in aims], [weight for weight, _ in aims])[0]


class Parts(NamedTuple):
    """What part files say but for what differs from run to run: names, schema and metadata, and rows."""

    files: dict[str, tuple[Any, dict[bytes, bytes]]]
    rows: pl.DataFrame


def parts_of(out: Path) -> Parts:
    files = {}
    for path in sorted((out / "results").iterdir()):
        schema = pq.read_schema(path)
        files[path.name] = (schema.remove_metadata(), schema.metadata)
    return Parts(files, pl.read_parquet(out / "results" / "*.parquet").drop(PER_RUN))


class Campaign:
    """Kills of one work, in a folder where its job is written; `by_command_line` is a share of the lives.

    Without a witness each life starts a server of its own, which must not outlive it. `say` is told how far it is.
    """

    def __init__(
        self,
        work: Work,
        folder: Path,
        witness: Witness | None,
        *,
        seed: int,
        by_command_line: float = 0.2,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.work = work
        self.folder = folder
        self.witness = witness
        self.random = Random(f"{work.name}/{seed}")
        self.promptmill = CommandLine(folder, {"DASHSCOPE_API_KEY": "sk-any"})
        self.uploads_cut = 0
        contents = work.write(folder, witness.base_url if witness else None)
        # The ledger and the program know a content by different hashes.
        self.digests = {sha256(content).hexdigest(): digest(content) for content in contents}
        self._seed = seed
        self._by_command_line = by_command_line
        self._say = say
        if work.changes:
            work.write_rows(folder, work.before)
            assert self.live("before", How.FORKED).code == 0
            work.write_rows(folder, work.numbers)
        undisturbed = self.live("undisturbed", How.FORKED, more=["--set", "limits.max_concurrency=100"])
        assert (undisturbed.code, undisturbed.summary["maybe_paid"]) == (0, 0)
        self.expected = parts_of(folder / "undisturbed")

    def kill(self, times: int) -> Figures:
        """Kill so many times, over as many runs as that takes, each from an empty folder (or that of before) to its end."""
        figures, runs = Figures(), 0
        while figures.kills < times:
            runs += 1
            run = _Run(self, f"out-{runs}")
            try:
                run.go(times - figures.kills)
            except AssertionError as error:
                raise AssertionError(f"{self.work.name}, seed {self._seed}, {run.doing}: {error}") from error
            figures.add(run.figures)
            self._say(f"{self.work.name}: {figures.kills} of {times} kills, {runs} runs")
            shutil.rmtree(self.folder / f"out-{runs}")
        return figures

    def draw_how(self) -> How:
        return How.COMMAND_LINE if self.random.random() < self._by_command_line else How.FORKED

    def live(self, out: str, how: How, aim: Aim | None = None, more: Sequence[str] = ()) -> Ended:
        """A life of the run in this folder, to its end or until it is killed; its children may not outlive it."""
        arguments = ["run", "job.toml", "--output", out, *more]
        with ExitStack() as stack:
            # Watched from before the start, or the first events would be missed.
            moment = aim and self._moment(aim, self.folder / out, stack)
            life = stack.enter_context(begun(how, self.promptmill, arguments, out))
            if aim is None or (moment is not None and not lives_until(moment, life)):
                return life.end()
            starting_s = 0.5 if how is How.COMMAND_LINE and moment is None else 0.0
            if life.ends_within(aim.delay_s + starting_s * self.random.uniform(0, 2)):
                return life.end()
            self.uploads_cut += self.witness is not None and self.witness.uploading > 0
            return life.kill()

    def _moment(self, aim: Aim, out: Path, stack: ExitStack) -> Moment | None:
        if isinstance(aim.at, Change):
            return stack.enter_context(changed(out, aim.at, aim.nth))
        if isinstance(aim.at, Event):
            assert self.witness is not None
            return stack.enter_context(self.witness.watched(aim.at, aim.nth))
        return None


class _Run:
    """One run of a campaign: from its beginning through kills to its end. `doing` says where it is."""

    def __init__(self, campaign: Campaign, out: str) -> None:
        self._campaign = campaign
        self._witness = campaign.witness
        self._work = campaign.work
        self._folder = campaign.folder / out
        self._out = out
        self._rows = frozenset(campaign.work.numbers)
        self._parts = PartReader(campaign.work.numbers, campaign.work.changes)
        self._left = Left()
        if campaign.work.changes:
            shutil.copytree(campaign.folder / "before", self._folder)
            self._left = left_in(self._folder, self._parts, campaign.folder / "copies")
            assert self._left.settled == set(campaign.work.before)
        self._asked = self._rows - self._left.settled
        self._start = self._count = campaign.witness.count() if campaign.witness else None
        self.figures = Figures(rows=len(self._rows))
        self.doing = out

    def go(self, most_kills: int) -> None:
        """Kill up to so many times, then let it end; judge it after each life."""
        campaign, figures = self._campaign, self.figures
        while figures.kills < most_kills:
            aim = aim_of(self._work, campaign.random, self._left, witnessed=self._witness is not None)
            how, cut = campaign.draw_how(), campaign.uploads_cut
            self.doing = f"{self._out}, life {figures.kills + 1} ({how}), to be killed {aim}"
            ended = campaign.live(self._out, how, aim)
            signs = self._judge_life()
            if ended.code != -signal.SIGKILL:
                break
            figures.kills += 1
            figures.aims[aim.name] += 1
            figures.hows[how] += 1
            if campaign.uploads_cut > cut:
                signs.add("an upload was under way")
            figures.signs.update(signs)
        else:
            self.doing = f"{self._out}, the last life"
            ended = campaign.live(self._out, campaign.draw_how())
            self._judge_life()
        self._judge_end(ended)

    def _judge_life(self) -> set[str]:
        """Hold what a life left behind against what was there before and what the ledger saw; say what its end interrupted."""
        self._campaign.promptmill.wait_all_gone()
        before = self._left
        left = self._left = left_in(self._folder, self._parts, self._campaign.folder / "copies")
        assert before.settled <= left.settled, "an outcome that was on disk is gone"
        assert len(left.begun) <= self._work.at_once
        took_over = left.counted == before.counted + len(before.begun)
        if not took_over:  # killed before it had counted what the life before left
            assert (left.counted, left.begun, left.settled) == (before.counted, before.begun, before.settled)
        in_flight = left.begun if took_over else frozenset()
        self.figures.in_flight += len(in_flight)
        signs = set(left.signs)
        if in_flight:
            signs.add("requests were in flight")
        if self._witness is not None and self._count is not None:
            self._witness.wait_quiet()
            count = self._witness.count()
            seen, self._count = count.since(self._count), count
            self._judge_requests(seen, before, in_flight)
            self._judge_uploads(seen, before, signs)
            if not seen.received:
                signs.add("nothing was sent in that life")
        return signs

    def _judge_requests(self, seen: Count, before: Left, in_flight: frozenset[int]) -> None:
        asked, settled = seen.received.keys(), self._left.settled - before.settled
        assert not asked & before.settled, "a row was asked again whose outcome was on disk"
        assert set(seen.received.values()) <= {1}, "a row was asked twice in one life"
        assert seen.billed == seen.received
        assert settled <= asked, "an outcome without a request"
        assert asked - settled <= in_flight, "a request was sent that the journal does not know"
        self.figures.lost += len(asked - settled)
        self.figures.unsent += len(in_flight - asked)

    def _judge_uploads(self, seen: Count, before: Left, signs: set[str]) -> None:
        uploaded = {self._campaign.digests[one] for one in seen.uploaded}
        assert set(seen.uploaded.values()) <= {1}, "a content was uploaded twice in one life"
        assert not uploaded & before.uploaded, "a content was uploaded again whose upload was recorded"
        self.figures.uploads += len(uploaded)
        if uploaded - self._left.uploaded:
            signs.add("an upload was done and not yet recorded")

    def _judge_end(self, ended: Ended) -> None:
        figures, rows = self.figures, len(self._rows)
        assert ended.code == 0, ended
        summary = ended.summary
        assert (summary["rows"], summary["done"], summary["status"]["ok"]) == (rows, rows, rows)
        assert summary["maybe_paid"] == figures.in_flight
        assert (self._left.begun, self._left.signs) == (set(), set())
        if self._count is not None and self._start is not None:
            whole = self._count.since(self._start)
            assert whole.billed.keys() == self._asked
            assert whole.billed.total() - len(self._asked) == figures.lost
            assert figures.in_flight == figures.lost + figures.unsent
            assert len(whole.uploaded) == len(self._campaign.digests)
            figures.uploads_again = whole.uploaded.total() - len(whole.uploaded)
        found, expected = parts_of(self._folder), self._campaign.expected
        assert found.files == expected.files
        assert found.rows.equals(expected.rows), "the rows are not those of an undisturbed run"
        log = (self._folder / "run.log").read_text(encoding="utf-8")
        assert "a bug" not in log and "Traceback" not in log, log
        self.doing = f"{self._out}, after its end"
        again = self._campaign.live(self._out, How.FORKED).summary
        assert (again["sent"], again["maybe_paid"]) == (0, summary["maybe_paid"])
