"""What must be said beside the figures: what a count, a price or a time rests on, and what it leaves out."""

import math
from collections.abc import Iterator

from pipeline.estimate.figures import Source
from pipeline.estimate.options import Option
from pipeline.estimate.population import Population
from pipeline.estimate.settled import Settled
from pipeline.model_rules import thinks
from pipeline.plan import Plan
from pipeline.records import Route

# The vocabulary that `tokens` counts by, as the catalogue names it.
_OUR_TOKENIZER = "qwen3"
# Model Studio, "Batch interfaces compatible with OpenAI" and "OpenAI compatible - Batch Chat" (2026-05).
_LINES_A_FILE = 50_000
_SEARCHES = ("enable_search", "web_search_options")


def job_notes(plan: Plan, population: Population) -> Iterator[str]:
    """What is to be known of the counts and prices of a job."""
    target, model = plan.target, plan.target.model
    tokenizer = model.tokenizer if model else None
    if tokenizer != _OUR_TOKENIZER:
        whose = f"counts by another ({tokenizer})" if tokenizer else "has a tokenizer that is not known here"
        yield (
            f"prompts are counted by the vocabulary of Qwen up to 3, and {target.model_name} {whose}: without a pilot, which "
            "corrects it by what is billed, the count may be off by a tenth or more"
        )
    if plan.price is None:
        yield (
            f"no price is known for {target.model_name} at {target.provider.name}: its cost is left out. "
            "`--compare provider/model` shows what the same tokens cost elsewhere"
        )
    if any(plan.params.get(name) for name in _SEARCHES):
        yield "what a web search adds to the prompts is in no count; a pilot shows it"
    if population.counts.media and plan.job.file.prompt.brings_media:
        yield "pictures and frames are counted by the provider's formulas; those behind web addresses are guesses"


def source_notes(source: Source, own: Settled, *, known_model: str | None) -> Iterator[str]:
    """What the figures of the answers rest on."""
    if source.kind == "none":
        yield "nothing is known of the answers: `--pilot 100` asks 100 rows and learns from them; the run need not ask them again"
    if source.kind == "settled":
        which = f"of before the change of {', '.join(own.changed)}" if own.changed else "settled so far"
        yield f"the answers are judged by the rows {which}, which were not drawn at random: those to come may differ"
    if source.kind == "run":
        yield "the answers are judged by another run: the interval holds as far as its rows are like these"
    if source.kind in ("run", "settled") and known_model is not None:
        yield f"that run asked {known_model}, whose answers may be longer or shorter"
    if own.changed and source.kind != "settled":
        yield f"since the last run in the folder changed: {', '.join(own.changed)}. Its answers are not counted as known here"
    if own.unknown:
        yield f"of {own.unknown:,} settled rows the bill is not known; they are left out"


def option_notes(plan: Plan, option: Option, *, requests: float) -> Iterator[str]:
    """What is to be known of one model on one route; each begins with the model or the route, whichever it is about."""
    own, model, name, route = plan.target.model, option.model, option.model_name, option.route
    if model is not None and own is not None and model is not own:
        if model.tokenizer != own.tokenizer:
            yield f"{name}: another tokenizer ({model.tokenizer or 'not known'}), so its own counts differ"
        if thinks(model, plan.params) != thinks(own, plan.params):
            does = "thinks" if thinks(model, plan.params) else "does not think"
            yield f"{name}: {does} with these parameters, so its answers will differ in length"
    if route == "batch-chat":
        yield f"{route}: outside the limits a minute; a request waits up to an hour for idle capacity"
    if route == "batch-file":
        files = max(1, math.ceil(requests / _LINES_A_FILE))
        count = "one file" if files == 1 else f"{files:,} files"
        yield f"{route}: outside the limits a minute; {count}, answered within 24 hours or the window asked for"
    if route not in set(Route):
        yield f"{route}: the price alone, as this version does not run the route"
