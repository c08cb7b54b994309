"""Hosts outside of a kind lab: containers on the nodes' network, beside the cluster, which know nothing of its pods.

Each runs the lab's tools image in the engine itself and carries the lab's name as a label, by which it is found and
removed, whether or not the cluster is there. Its address and MAC are the engine's to choose. Argv and parsing are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from labctl.errors import MeasureFailed, StepFailed
from labctl.json_text import parse_json
from labctl.model.lab import Lab, Outside
from labctl.planning.shell import quoted
from labctl.providers.base import TargetKind
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.kind.actions import KindAct
from labctl.providers.kind.failures import failed_command
from labctl.values import dataclass

LABEL = "labctl.outside"
"""Its value is the lab's name."""
NETWORK = "kind"
"""kind's own network of the engine, unless the scenario names another."""
_LOOK_S = 30.0


def container_of(cluster: str, host: str) -> str:
    """The container of a host outside: its name is the engine's, so it begins as those of the nodes do."""
    return f"{cluster}-{host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOutside(KindAct):
    """One container, new; one of that name that carries the lab's label is replaced."""

    engine: str
    lab: str
    container: str
    image: str
    network: str
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        may = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
        where = ("--name", self.container, "--hostname", self.container, "--network", self.network)
        return (
            *(self.engine, "run", "--detach", *where, "--label", f"{LABEL}={self.lab}", *may),
            *("--entrypoint", "sleep", self.image, "infinity"),
        )

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveOutside(KindAct):
    """Removes every container that carries the lab's label."""

    engine: str
    lab: str
    timeout_s: float

    def shell(self) -> str:
        listed = quoted(argv_list(self.engine, self.lab, what="{{.ID}}"))
        return f"{listed} | xargs -r {quoted((self.engine, 'rm', '--force', '--volumes'))}"


def argv_list(engine: str, lab: str, *, what: str = "{{.Names}}", running: bool = False) -> tuple[str, ...]:
    """The lab's hosts outside, running or not."""
    every = () if running else ("--all",)
    return (engine, "ps", *every, "--filter", f"label={LABEL}={lab}", "--format", what)


def start(commands: Commands, action: StartOutside) -> None:
    """Raises StepFailed."""
    if action.container in _listed(commands, argv_list(action.engine, action.lab)):
        _run(commands, (action.engine, "rm", "--force", "--volumes", action.container), action.timeout_s)
    _run(commands, action.argv, action.timeout_s)


def remove(commands: Commands, action: RemoveOutside) -> None:
    """Idempotent. Raises StepFailed."""
    names = _listed(commands, argv_list(action.engine, action.lab))
    if names:
        _run(commands, (action.engine, "rm", "--force", "--volumes", *names), action.timeout_s)


def running(commands: Commands, engine: str, lab: str) -> tuple[str, ...]:
    """The names of the lab's containers that run. Raises StepFailed when the engine does not answer."""
    return _listed(commands, argv_list(engine, lab, running=True))


def with_addresses(lab: Lab, commands: Commands, engine: str, cluster: str) -> Lab:
    """The lab with the addresses that the engine gave its hosts outside. Raises MeasureFailed when one is not there."""
    return replace(lab, outside=tuple(_addressed(host, commands, engine, cluster) for host in lab.outside))


def targets(lab: Lab, commands: Commands, engine: str, cluster: str) -> dict[str, DoorTarget]:
    """The way into each host outside, by its name."""
    found = {}
    for host in lab.outside:
        container = container_of(cluster, host.name)
        door = Door(closed=(engine, "exec", container), open=(engine, "exec", "-i", container))
        found[host.name] = DoorTarget(name=host.name, kind=TargetKind.OUTSIDE, door=door, commands=commands)
    return found


def _addressed(host: Outside, commands: Commands, engine: str, cluster: str) -> Outside:
    container = container_of(cluster, host.name)
    asked = commands.run((engine, "inspect", "--type", "container", container), timeout_s=_LOOK_S)
    if asked.returncode or asked.timed_out:
        raise MeasureFailed(
            what=f"the host outside {host.name} is not there",
            cause=asked.error_text.strip()[-200:],
            remedy="labctl down LAB, then labctl up again",
        )
    address, mac = parse_address(asked.text)
    return replace(host, address=address, mac=mac)


def parse_address(text: str) -> tuple[IPv4Address, str]:
    """The address and MAC of a container that is on one network, from `inspect`. Raises MeasureFailed."""
    try:
        (container,) = parse_json(text)
        networks: Mapping[str, Mapping[str, str]] = container["NetworkSettings"]["Networks"]
        (network,) = networks.values()
        return IPv4Address(network["IPAddress"]), network["MacAddress"].lower()
    except (ValueError, KeyError, TypeError, AttributeError) as failed:
        raise MeasureFailed(
            what="the address of a host outside cannot be read from the container engine", cause=text.strip()[:200]
        ) from failed


def _listed(commands: Commands, argv: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(_run(commands, argv, _LOOK_S).split()))


def _run(commands: Commands, argv: tuple[str, ...], timeout_s: float) -> str:
    done = commands.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode:
        error: StepFailed = failed_command(done, timeout_s=timeout_s)
        raise error
    return done.text
