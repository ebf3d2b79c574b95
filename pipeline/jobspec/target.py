"""Where a job's requests go: provider, model, address, key and limits, from the job file, the catalogue and the environment."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pipeline import catalog
from pipeline.errors import JobError, SetupError
from pipeline.jobspec.load import JobSpec
from pipeline.masking import Secrets, proxy_secrets, without_secrets
from pipeline.proxies import is_this_machine, proxy_of

# DashScope serves both protocols on one host (Model Studio, "Base URL").
_COMPATIBLE_PATH = "/compatible-mode/v1"
_NATIVE_PATH = "/api/v1"
DEFAULT_CONCURRENCY = 256
# Labels come about one a second; more in flight than the local server has slots only wait there.
LOCAL_CONCURRENCY = 4
_STARTED: Mapping[str, Literal["local", "simulator"]] = {"local": "local", "simulator": "simulator"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server side of a job.

    `base_url` is None where the run starts the server itself (`starts` says which). `identity` names the server in content
    keys: its address, or the provider where the address changes from run to run. `headers` hold the key and are never shown;
    `secrets` takes them, and the proxy's password, out of what others say. `server_env` is the environment of a server that the
    run starts: it needs no key, so it gets none. `warnings` are sentences for whoever runs the job.
    """

    provider: catalog.Provider
    model_name: str
    model: catalog.Model | None
    base_url: str | None
    starts: Literal["local", "simulator"] | None
    identity: str
    headers: Mapping[str, str] = field(repr=False)
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_concurrency: int
    proxy: str | None = field(repr=False)
    secrets: Secrets = field(repr=False)
    server_env: Mapping[str, str] = field(repr=False)
    warnings: tuple[str, ...]

    def api_url(self, base_url: str, protocol: str) -> str:
        """Where a protocol's paths start: the compatible base URL itself, or the native API beside it.

        Raises JobError where the provider has no native API.
        """
        base_url = base_url.rstrip("/")
        if protocol == "compatible":
            return base_url
        if base_url.endswith(_COMPATIBLE_PATH):
            return base_url.removesuffix(_COMPATIBLE_PATH) + _NATIVE_PATH
        if base_url.endswith(_NATIVE_PATH):
            return base_url
        raise JobError(
            f'[model] protocol = "native" is DashScope\'s: {self.provider.title} does not speak it. Leave protocol out'
        )


def resolve_target(
    job: JobSpec,
    *,
    env: Mapping[str, str],
    need_key: bool = True,
    load: Callable[[str], catalog.Provider] = catalog.load,
) -> Target:
    """Bring job, catalogue and environment together; `load` gives a provider by its name.

    Raises JobError for an unknown provider or a missing base_url, SetupError where the key's variable is not set.
    """
    section, limits = job.file.model, job.file.limits
    provider = load(section.provider)
    model = provider.model(section.name)
    starts = _STARTED.get(section.provider) if section.base_url is None else None
    base_url = section.base_url or provider.base_url
    if base_url is None and starts is None:
        raise JobError(
            f'[model] provider = "{section.provider}" needs base_url, the address up to /v1: base_url = "http://host:port/v1"'
        )
    known = model.limits if model else catalog.Limits()
    default_concurrency = LOCAL_CONCURRENCY if starts == "local" else DEFAULT_CONCURRENCY
    proxy = job.file.transport.proxy or proxy_of(base_url, env)
    authorization = _authorization(job, provider, env, need_key)
    keys = [value.removeprefix("Bearer ") for value in authorization.values()]
    return Target(
        provider=provider,
        model_name=section.name,
        model=model,
        base_url=base_url,
        starts=starts,
        identity=base_url or section.provider,
        headers={**job.file.headers, **authorization},
        requests_per_minute=limits.requests_per_minute or known.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute or known.tokens_per_minute,
        max_concurrency=limits.max_concurrency or default_concurrency,
        proxy=proxy,
        secrets=Secrets([*keys, *job.file.headers.values(), *proxy_secrets(proxy)]),
        server_env=without_secrets(env, key_variable(job, provider)),
        warnings=tuple(_warnings(base_url, key_variable(job, provider))),
    )


def _warnings(base_url: str | None, variable: str | None) -> Iterator[str]:
    """What is allowed, and yet seldom meant."""
    parts = urlsplit(base_url or "")
    if parts.scheme == "http" and variable is not None and not is_this_machine(parts.hostname or ""):
        yield (
            f"the key in {variable} and every prompt go to {parts.hostname} unencrypted, for anyone on the way to read: "
            "base_url is http://. Use https://, or a tunnel that ends on this machine"
        )


def key_variable(job: JobSpec, provider: catalog.Provider) -> str | None:
    """The environment variable that holds the job's key; None where it sends none."""
    return job.file.model.api_key_env or (None if provider.keyless else provider.api_key_env)


def _authorization(
    job: JobSpec, provider: catalog.Provider, env: Mapping[str, str], need_key: bool
) -> dict[str, str]:
    name = key_variable(job, provider)
    if name is None:
        return {}
    key = env.get(name, "").strip()
    if not key and not need_key:
        return {}
    if not key:
        raise SetupError(
            f"{provider.title} needs an API key, and the environment variable {name} is not set. "
            f"Set it (export {name}=...) and run the same command again; to try without a key: --set model.provider=simulator"
        )
    if not (key.isascii() and key.isprintable()):
        raise SetupError(
            f"the environment variable {name} holds what no API key does: a line break, or letters beyond ASCII. Set it anew"
        )
    return {"Authorization": f"Bearer {key}"}
