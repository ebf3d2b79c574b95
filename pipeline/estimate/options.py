"""The models and routes whose price is asked for: the job's own model on every route it has, and those to compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pipeline.catalog import Model, Provider, provider_names
from pipeline.errors import JobError
from pipeline.plan import Plan
from pipeline.pricing import ROUTES, Price, WholePrice, price
from pipeline.vision_tokens import vision_rule
from pipeline.worst_case import WorstCase


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One model on one route. `price` is None where it is not known; `own` is the job as it stands, `of_job` its model
    on any route.

    `most_tokens` is the most that an answer to the job's parameters may be there, None where nothing bounds it.
    """

    provider: Provider
    model_name: str
    model: Model | None
    route: str
    price: Price | None
    whole: WholePrice | None
    own: bool
    of_job: bool
    most_tokens: int | None


def options_of(plan: Plan, compare: Sequence[str], load: Callable[[str], Provider]) -> list[Option]:
    """The job's own option first, then its other routes, then the models to compare: `name`, or `provider/name`.

    `load` gives a provider by its name. Raises JobError for a model that the catalogue has no price of.
    """
    provider, name = plan.target.provider, plan.target.model_name
    own = plan.job.file.model.route
    found = [_option(plan, provider, name, own)]
    found += [
        option for route in ROUTES if route != own and (option := _option(plan, provider, name, route)).price
    ]
    for wanted in compare:
        other, model_name = _named(provider, wanted, load)
        priced = [option for route in ROUTES if (option := _option(plan, other, model_name, route)).price]
        if not priced:
            raise JobError(_unpriced(other, model_name))
        found += priced
    return found


def _named(provider: Provider, wanted: str, load: Callable[[str], Provider]) -> tuple[Provider, str]:
    """A model to compare: one of the job's provider, or of the one before the slash."""
    before, slash, name = wanted.partition("/")
    if slash and before in provider_names() and provider.model(wanted) is None:
        return load(before), name
    return provider, wanted


def _unpriced(provider: Provider, name: str) -> str:
    known = [name for name, model in provider.models.items() if model.tiers]
    if not known:
        what_to_do = f"{provider.name} has no prices; name another provider's model, such as dashscope/{name}"
    elif near := get_close_matches(name, known, n=1):
        what_to_do = f"did you mean {near[0]!r}?"
    else:
        what_to_do = "`promptmill estimate` compares models of the catalogue, as name or provider/name"
    return f"--compare: no price is known for {name!r} at {provider.name}; {what_to_do}"


def _option(plan: Plan, provider: Provider, name: str, route: str) -> Option:
    model = provider.model(name)
    found = price(provider, name, route)
    is_jobs = (provider.name, name) == (plan.target.provider.name, plan.target.model_name)
    bound = (
        plan.worst_case
        if is_jobs
        else WorstCase(found, model, vision_rule(model.image if model else None, name), strict=False)
    )
    return Option(
        provider=provider,
        model_name=name,
        model=model,
        route=route,
        price=found,
        whole=WholePrice(found) if found else None,
        of_job=is_jobs,
        own=is_jobs and route == plan.job.file.model.route,
        most_tokens=bound.answer_tokens(plan.params),
    )
