"""The tcpdump check: a known packet goes through while every tap of the pair is captured, and gives the signature.

The signature is compared with what real Cilium shows in the mode that the scenario asks for. A capture that cannot be
trusted (a tap that does not listen, packets that were dropped, a filter that sees nothing) is `error`, never `fail`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.captured_ping import WatchedPing
from labctl.checks.captures import TapCapture, echo_filter, hindrances_of, why_unsent
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, failed, measure, passed, said
from labctl.checks.ping import PingReport, parse_ping
from labctl.errors import MeasureFailed
from labctl.model.parameters import TcpdumpParameters
from labctl.model.result import CheckResult
from labctl.model.signature import ExpectedSignature, Role, Signature
from labctl.networks import network_of
from labctl.path.difference import differences
from labctl.path.sighting import Matcher, Sighting, match_echo, sightings
from labctl.path.signature import build_signature, recognise, vtep_roles


class TcpdumpCheck(WithoutFigures):
    """Which taps see the request, which the reply, and whether that is the mode that was asked for."""

    kind = "tcpdump"
    tools = ("tcpdump", "ping")

    def __init__(self, ping: WatchedPing | None = None) -> None:
        self._ping = ping or WatchedPing()

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, TcpdumpParameters):
            raise TypeError(f"tcpdump cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            observed = self.observe(context, raw, parameters)
            lab = context.open_lab.lab
            expected = network_of(lab).expected(lab, context.pair, packets=parameters.count)
            return Measured(judgement=judge_signature(expected, observed), values={}, signature=observed)

        return measure(context, self.metrics(parameters), body)

    def observe(self, context: CheckContext, raw: RawFiles, parameters: TcpdumpParameters) -> Signature:
        """Takes the signature without judging it. Raises MeasureFailed when the captures cannot be trusted."""
        open_lab, pair = context.open_lab, context.pair
        lab, taps = open_lab.lab, open_lab.taps(pair)
        client, server = lab.pod(pair.client).address, lab.pod(pair.server).address
        for watched in self._ping.sendings(context, raw, echo_filter(client, server), count=parameters.count):
            seen = tuple(_sightings(watched.captures, match_echo(client, server, watched.token)))
            is_seen = any(sighting.role is Role.CLIENT_ETH0 for sighting in seen)
            hindrances = hindrances_of(watched.captures)
            if not is_seen and watched.sent.returncode:
                # No echo came back either: that the pod sent nothing is the network's doing, where its reason is known.
                hindrances += (*why_unsent(open_lab.target(pair.client), watched.sent),)
            if is_seen or (hindrances and watched.sent.returncode):
                return build_signature(
                    taps=[(tap.name, tap.role) for tap in taps],
                    sightings=seen,
                    mac_roles=mac_roles(context),
                    vtep_roles=vtep_roles(lab, pair),
                    placement=pair.placement,
                    encapsulation=lab.datapath.encapsulation,
                    ping_ttl=_ping_ttl(watched.sent.text),
                    hindrances=hindrances,
                )
            if watched.is_last or watched.sent.returncode:
                break
        raise MeasureFailed(
            "the capture sees nothing",
            f"the known packet was not even seen at the client's own eth0; ping: {said(watched.sent)}",
        )


def judge_signature(expected: ExpectedSignature, observed: Signature) -> Judgement:
    """Passes when every tap shows what real Cilium shows; else fails with the first difference on the way."""
    found = tuple(differences(expected, observed))
    if found:
        more = f" (and {len(found) - 1} more {'difference' if len(found) == 2 else 'differences'})" if found[1:] else ""
        return failed("; ".join((f"{found[0].sentence}{more}", *observed.hindrances)))
    return passed(f"every tap shows what real Cilium shows: {recognise(observed).because}")


def mac_roles(context: CheckContext) -> dict[str, str]:
    """The role of the device that owns each MAC on the pair's way; the first owner's where two share one."""
    roles: dict[str, str] = {}
    for device in context.open_lab.devices(context.pair):
        roles.setdefault(device.mac.lower(), device.role)
    return roles


def _sightings(captures: Sequence[TapCapture], matcher: Matcher) -> Iterator[Sighting]:
    for capture in captures:
        tap = capture.tap
        yield from sightings(capture.records(), matcher, tap=tap.name, role=tap.role, direction=capture.direction)


def _ping_ttl(text: str) -> int | None:
    try:
        report: PingReport = parse_ping(text)
    except MeasureFailed:
        return None
    return report.ttls[0] if report.ttls else None
