"""Where the container engine is: on this host or on another one, and at which address the nodes' API server is reached.

kind publishes the API server on the engine's host and asks for an address there, so a host's name has to become an
address here. `DOCKER_HOST` counts first, then `DOCKER_CONTEXT`, then the context that `docker context use` wrote down.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from labctl.errors import LabError
from labctl.json_text import parse_json
from labctl.providers.cilium.commands import Commands
from labctl.system.files import read_file
from labctl.values import dataclass

LOOPBACK = "127.0.0.1"
_REMOTE = ("tcp", "http", "https", "ssh")
_ASK_S = 10.0
Resolve = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEndpoint:
    """`url` is empty for the engine's own default. `host` is empty where the engine is on this host; `address` is that
    host's, empty where its name does not resolve."""

    url: str = ""
    host: str = ""
    address: str = ""

    @property
    def is_remote(self) -> bool:
        return bool(self.host)


HERE = EngineEndpoint()


def host_of(url: str) -> str:
    """The other host that a `DOCKER_HOST` names; empty for sockets and for this host itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return ""
    if parts.scheme not in _REMOTE or host == "localhost":
        return ""
    address = _address(host)
    return "" if address is not None and (address.is_loopback or address.is_unspecified) else host


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def endpoint_of(url: str, commands: Commands | None = None, resolve: Resolve | None = None) -> EngineEndpoint:
    """The endpoint that a URL names. A host of `ssh://` may be one of the user's own ssh configuration."""
    host = host_of(url)
    if not host:
        return EngineEndpoint(url=url)
    if _address(host) is not None:
        return EngineEndpoint(url=url, host=host, address=host)
    look_up = resolve or resolved
    address = look_up(host)
    if not address and commands is not None and urlsplit(url).scheme == "ssh":
        address = look_up(_behind_ssh(commands, host))
    if address and ip_address(address).is_loopback:
        return EngineEndpoint(url=url)
    return EngineEndpoint(url=url, host=host, address=address)


def resolved(name: str) -> str:
    """The first IPv4 address of that name, else the first of any kind; empty where there is none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM) if name else []
    except (OSError, UnicodeError):
        return ""
    found.sort(key=lambda entry: entry[0] is not socket.AF_INET)
    return next((str(entry[4][0]) for entry in found), "")


def _behind_ssh(commands: Commands, host: str) -> str:
    """What ssh itself would connect to, by the user's `Host` entries."""
    try:
        asked = commands.run(("ssh", "-G", host), timeout_s=_ASK_S)
    except LabError:
        return ""
    lines = (line.split() for line in asked.text.splitlines())
    return next((words[1] for words in lines if len(words) == 2 and words[0] == "hostname"), "")


def engine_endpoint(engine: str, commands: Commands, environment: Mapping[str, str] = os.environ) -> EngineEndpoint:
    """Where this engine is. Only docker has endpoints elsewhere that kind can use."""
    if engine != "docker":
        return EngineEndpoint()
    url = environment.get("DOCKER_HOST", "") or _of_context(commands, environment)
    return endpoint_of(url, commands)


def _of_context(commands: Commands, environment: Mapping[str, str]) -> str:
    """The endpoint of the context in use; nothing is run where that is docker's default."""
    if (environment.get("DOCKER_CONTEXT") or _written_context(environment)) in ("", "default"):
        return ""
    try:
        asked = commands.run(
            ("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"), timeout_s=_ASK_S
        )
    except LabError:
        return ""
    return asked.text.strip() if asked.returncode == 0 else ""


def _written_context(environment: Mapping[str, str]) -> str:
    folder = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME", "/root")) / ".docker")
    try:
        config = parse_json(read_file(Path(folder) / "config.json", follow=True))
    except (OSError, ValueError):
        return ""
    return str(config.get("currentContext") or "") if isinstance(config, dict) else ""
