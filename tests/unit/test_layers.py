"""Imports go down the layers below, and never up: the import graph is the judge."""

from pathlib import Path

import grimp
import pytest

LAYERS: list[set[str]] = [
    {"records", "errors", "private", "masking", "sandbox", "streams", "proxies", "fair_shares", "processes"},
    {"s3"},
    {
        "failure_codes",
        "catalog",
        "tokens",
        "vision_tokens",
        "jobspec",
        "dataset",
        "totals",
        "storage",
        "schedule",
        "run_log",
        "quota_search",
        "ceiling",
        "loop_lag",
        "last_minute",
        "line",
        "gate",
        "turns",
    },
    {
        "pace",
        "failures",
        "pricing",
        "billing",
        "model_rules",
        "databases",
        "results",
        "spent",
        "sampling",
        "history",
    },
    {"media", "protocol", "response", "repricing"},
    {"render", "worst_case", "budget"},
    {
        "transport",
        "limits",
        "expectation",
        "kept",
        "monthly",
        "journal",
        "journal_upkeep",
        "leases",
        "common_pace",
        "run_lock",
        "parts",
        "part_reading",
        "progress",
        "children",
        "summary",
        "uploads",
    },
    {
        "journal_view",
        "retry",
        "run_folder",
        "answers",
        "feeder",
        "plan",
        "llama_server",
        "stopping",
        "watchdog",
    },
    {"sharing", "spending", "servers", "placing", "counting", "pilot", "opening", "metrics"},
    {"runner", "live"},
    {"run_file"},
    {"engine", "check", "export", "status", "labels", "simulator", "selftest", "price_list"},
    {"report"},
    {"estimate"},
    {"commands", "cli_parts"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Modules of one level that may use each other, lower first, with the reason.
WITHIN_LEVEL = {
    ("vision_tokens", "tokens"),  # what is written around pictures and tools is text
    ("jobspec", "schedule"),  # a job's hours
    ("run_folder", "answers"),  # outcomes are read back out of parts
    ("history", "databases"),  # one of the journal's tables
    ("common_pace", "leases"),  # the rates that both go by
    ("journal", "kept"),  # tables of one file, in transactions of one owner
    ("part_reading", "parts"),  # what was written
    ("journal", "journal_upkeep"),  # the same
    ("billing", "pricing"),  # many outcomes by the rule of one answer
    ("jobspec", "catalog"),  # a job's target is looked up in the catalogue
}


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline", cache_dir=None)


def test_every_module_has_a_level(graph: grimp.ImportGraph) -> None:
    rooms = {room(m) for m in graph.modules if m != "pipeline"}
    assert rooms <= set(LEVEL), f"give these a level in LAYERS: {sorted(rooms - set(LEVEL))}"


def test_imports_go_down(graph: grimp.ImportGraph) -> None:
    wrong = []
    for module in graph.modules - {"pipeline"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"pipeline"}:
            a, b = room(module), room(imported)
            if a == b or (a, b) in WITHIN_LEVEL:
                continue
            if LEVEL[b] >= LEVEL[a]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_the_lowest_level_imports_nothing_of_ours(graph: grimp.ImportGraph) -> None:
    for base in (
        "pipeline.records",
        "pipeline.errors",
        "pipeline.private",
        "pipeline.masking",
        "pipeline.sandbox",
    ):
        assert graph.find_modules_directly_imported_by(base) - {"pipeline"} == set()


def test_simulator_shares_only_wire_formats_and_catalogue(graph: grimp.ImportGraph) -> None:
    allowed = {"protocol", "catalog", "tokens", "vision_tokens", "records", "errors", "simulator"}
    for module in graph.find_descendants("pipeline.simulator") | {"pipeline.simulator"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"pipeline"}:
            assert room(imported) in allowed, f"{module} imports {imported}"


def test_no_module_has_two_jobs() -> None:
    root = Path(__file__).parents[2] / "pipeline"
    long = {p.name: n for p in root.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, "over 400 lines: split by job"
