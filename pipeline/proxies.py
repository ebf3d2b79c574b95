"""Which proxy the environment names for an address."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def is_this_machine(host: str) -> bool:
    """Whether what is sent to this host never leaves the machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, perhaps one that begins like an address
        return False


def proxy_of(base_url: str | None, env: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for an address: HTTPS_PROXY or HTTP_PROXY, else ALL_PROXY, but for NO_PROXY.

    This machine itself is never asked through a proxy. Names in capitals or not, as curl and Python read them; but HTTP_PROXY
    in capitals is not read where REQUEST_METHOD is set, since a CGI client could have sent it.
    """
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if is_this_machine(host):
        return None
    for skipped in (env.get("no_proxy") or env.get("NO_PROXY") or "").split(","):
        name = skipped.strip().lower().lstrip("*").lstrip(".")
        if skipped.strip() == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return None
    names = [f"{parts.scheme}_proxy", "all_proxy"]
    for name in names:
        upper = "" if name == "http_proxy" and "REQUEST_METHOD" in env else env.get(name.upper(), "")
        if found := env.get(name) or upper:
            return found if "://" in found else f"http://{found}"
    return None
