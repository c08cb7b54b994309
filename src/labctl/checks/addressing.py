"""The addressing check: how a pod reaches others at all, from its mask to the envelope on the wire, found by looking.

It sees only the seam. What the findings should be, and what they teach, is `addressing_findings`'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from labctl.checks import addressing_findings as judges
from labctl.checks.addressing_findings import (
    ICMP_OVER_IPV4_BYTE,
    Wrapped,
    argv_addresses,
    argv_forget_neighbour,
    argv_largest,
    argv_neighbours,
    argv_routes,
    arp_of_pod,
    parse_default_route,
    parse_device,
    parse_neighbour,
)
from labctl.checks.base import CheckContext
from labctl.checks.captures import TapCapture, echo_filter
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, judge_findings, measure, not_judged
from labctl.checks.server import unfit_unless_pods
from labctl.checks.tcpdump import PingSending, WatchedPing, mac_roles
from labctl.model.flow import flows_of
from labctl.model.interfaces import cilium_tunnel_port
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import AddressingParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.signature import Role
from labctl.model.tools import require_output, require_success
from labctl.networks import expected_of
from labctl.path.frame import Ipv4, decode
from labctl.path.sighting import Matcher, Sighting, match_echo, sightings
from labctl.providers.base import Completed, Target

_DEVICE = "eth0"
_TIMEOUT_S = 10.0
_IPV4_BYTE = 14
"""The Ethernet header before the length that an IPv4 header has."""
_UPLINKS = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)


class AddressingCheck(WithoutFigures):
    """Mask, gateway, ARP, TTLs, envelope and MTU of one pair, each a finding with what it teaches."""

    kind = "addressing"
    tools = ("ip", "ping", "tcpdump")

    def __init__(self, ping: WatchedPing | None = None) -> None:
        self._ping = ping or WatchedPing()

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_unless_pods(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, AddressingParameters):
            raise TypeError(f"addressing cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            if (unjudged := not_judged(context.open_lab.lab, "how its pods should be addressed")) is not None:
                return Measured(judgement=unjudged, values={})
            findings = tuple(self._look(context, raw, parameters))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, parameters: AddressingParameters) -> Iterator[Finding]:
        open_lab, pair = context.open_lab, context.pair
        lab, pod = open_lab.lab, open_lab.target(pair.client)
        server = str(lab.pod(pair.server).address)

        def ask(name: str, argv: Sequence[str]) -> str:
            return require_output(_asked(pod, raw, name, argv), f"{shlex.join(argv)} cannot be read")

        device = parse_device(ask("address", argv_addresses(_DEVICE)))
        route = parse_default_route(ask("route", argv_routes()))
        yield judges.judge_address(lab, pair, device, pod.command(argv_addresses(_DEVICE)))
        yield judges.judge_gateway(lab, pair, route, pod.command(argv_routes()))
        gateway = str(lab.node(lab.pod(pair.client).node).router) if route is None else route.gateway
        watched = self._watch(context, raw, parameters, gateway)
        captures = watched.captures
        mac = parse_neighbour(ask("neighbour", argv_neighbours(_DEVICE)), gateway)
        yield judges.judge_gateway_mac(lab, pair, gateway, mac, pod.command(argv_neighbours(_DEVICE)))
        client = lab.pod(pair.client)
        arp = tuple(arp_of_pod(captures, client.address, [client.mac]))
        yield from judges.judge_arp(lab, pair, arp, gateway, _look_at(context, Role.CLIENT_LXC, "arp"))
        matcher = match_echo(flows_of(lab, pair), watched.token)
        seen = tuple(
            one
            for capture in captures
            for one in sightings(capture.records(), matcher, tap=capture.tap.name, role=capture.tap.role)
        )
        expected = expected_of(lab, pair, packets=parameters.count)
        if expected is not None:
            yield judges.judge_ttl(pair, seen, expected, pod.command(("ping", "-c", "1", server)))
        wrapped = tuple(one for capture in captures for one in _wrapped(capture, matcher))
        plain = [one for one in seen if one.role in _UPLINKS and one.envelope is None]
        port = cilium_tunnel_port(lab.datapath.encapsulation)
        look = _look_at(context, Role.CLIENT_UPLINK, f"icmp or udp port {port}")
        yield from judges.judge_envelope(lab, pair, wrapped, plain, mac_roles(context), look)
        mtu = device.mtu if route is None or route.mtu is None else route.mtu
        tries = [(f"ping-{size}", argv_largest(server, size)) for size in _sizes(mtu)]
        largest, next_byte = (raw.save_completed(name, pod.run(argv, timeout_s=_TIMEOUT_S)) for name, argv in tries)
        commands = (pod.command(tries[0][1]), pod.command(tries[1][1]))
        yield from judges.judge_mtu(lab, mtu, largest, next_byte, commands)

    def _watch(
        self, context: CheckContext, raw: RawFiles, parameters: AddressingParameters, gateway: str
    ) -> PingSending:
        """One sending by the pod, which has forgotten its gateway's MAC: the only ARP to be seen is the pod's."""
        lab, pair, pod = context.open_lab.lab, context.pair, context.open_lab.target(context.pair.client)
        expression = f"arp or {echo_filter(flows_of(lab, pair))}"

        def forget(again: str) -> None:
            argv = argv_forget_neighbour(gateway, _DEVICE)
            require_success(_asked(pod, raw, f"forget{again}", argv), f"{shlex.join(argv)} failed")

        return next(self._ping.sendings(context, raw, expression, count=parameters.count, before=forget))


def _look_at(context: CheckContext, role: Role, expression: str) -> tuple[str, ...]:
    """What shows the same by hand at the tap of that role."""
    tap = next((tap for tap in context.open_lab.taps(context.pair) if tap.role is role), None)
    return () if tap is None else tap.target.command(("tcpdump", "-nei", tap.interface, f"'{expression}'"))


def _sizes(mtu_byte: int) -> tuple[int, int]:
    """The largest payload that should pass, and one byte more."""
    return mtu_byte - ICMP_OVER_IPV4_BYTE, mtu_byte - ICMP_OVER_IPV4_BYTE + 1


def _asked(target: Target, raw: RawFiles, name: str, argv: Sequence[str]) -> Completed:
    return raw.save_completed(name, target.run(argv, timeout_s=_TIMEOUT_S))


def _wrapped(capture: TapCapture, matcher: Matcher) -> Iterator[Wrapped]:
    """The marked packets that were in an envelope at this tap, with the lengths of both frames."""
    for record in capture.records():
        frame = decode(record.frame)
        inner = frame.inner if frame is not None else None
        if inner is None or not isinstance(inner.network, Ipv4):
            continue
        found: tuple[Sighting, ...] = tuple(sightings([record], matcher, tap=capture.tap.name, role=capture.tap.role))
        length = inner.network.length_byte
        yield from (Wrapped(sighting=one, outer_byte=record.wire_byte, inner_byte=length + _IPV4_BYTE) for one in found)
