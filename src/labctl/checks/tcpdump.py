"""The tcpdump check: a known packet goes through while every tap of the pair is captured, and gives the signature.

The signature is compared with what real Cilium shows in the mode that the scenario asks for. A capture that cannot be
trusted (a tap that does not listen, packets that were dropped, a filter that sees nothing) is `error`, never `fail`.
`WatchedPing`, marked echo requests that are sent until a capture is complete, serves the addressing check too.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.captures import TapCapture, capturing, echo_filter, hindrances_of, require_trustworthy, why_unsent
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, failed, measure, passed, said
from labctl.checks.ping import PingReport, argv_ping, parse_ping, ping_timeout_s
from labctl.errors import MeasureFailed
from labctl.model.flow import flows_of
from labctl.model.lab import EndpointKind, Lab, Pair
from labctl.model.parameters import PingParameters, TcpdumpParameters
from labctl.model.result import CheckResult
from labctl.model.signature import ExpectedSignature, Role, Signature
from labctl.networks import expected_of, network_of
from labctl.path.difference import differences
from labctl.path.observed import way_in_words
from labctl.path.sent import require_sent
from labctl.path.sighting import Matcher, Sighting, match_echo, sightings
from labctl.path.signature import address_roles, build_signature, lost_on_the_way, recognise, vtep_roles
from labctl.providers.base import Completed
from labctl.values import dataclass


class TcpdumpCheck(WithoutFigures):
    """Which taps see the request, which the reply, and whether that is the mode that was asked for."""

    kind = "tcpdump"
    tools = ("tcpdump", "ping")

    def __init__(self, ping: WatchedPing | None = None) -> None:
        self._ping = ping or WatchedPing()

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if lab.server(pair).kind is EndpointKind.SERVICE:
            return "nothing translates an echo request to a Service: labctl trace follows its connections"
        return ""

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, TcpdumpParameters):
            raise TypeError(f"tcpdump cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            observed = self.observe(context, raw, parameters)
            lab = context.open_lab.lab
            expected = expected_of(lab, context.pair, packets=parameters.count)
            judgement = judge_observed(lab.cni, observed) if expected is None else judge_signature(expected, observed)
            return Measured(judgement=judgement, values={}, signature=observed)

        return measure(context, self.metrics(parameters), body)

    def observe(self, context: CheckContext, raw: RawFiles, parameters: TcpdumpParameters) -> Signature:
        """Takes the signature without judging it. Raises MeasureFailed when the captures cannot be trusted."""
        open_lab, pair = context.open_lab, context.pair
        lab, taps = open_lab.lab, open_lab.taps(pair)
        # What a node sends has no eth0 of a pod to leave by: wherever it is seen first.
        first = next((tap.role for tap in taps if tap.role is Role.CLIENT_ETH0), None)
        flows = flows_of(lab, pair)
        for watched in self._ping.sendings(context, raw, echo_filter(flows), count=parameters.count):
            seen = tuple(_sightings(watched.captures, match_echo(flows, watched.token)))
            is_seen = any(sighting.role is first or first is None for sighting in seen)
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
                    address_roles=address_roles(lab, pair),
                    placement=pair.placement,
                    encapsulation=lab.datapath.encapsulation,
                    ping_ttl=_ping_ttl(watched.sent.text),
                    hindrances=hindrances,
                )
            if watched.is_last or watched.sent.returncode:
                break
        raise MeasureFailed(
            "the capture sees nothing",
            f"the known packet was not even seen {_AT_ETH0 if first else 'at any tap'}; ping: {said(watched.sent)}",
        )


def judge_signature(expected: ExpectedSignature, observed: Signature) -> Judgement:
    """Passes when every tap shows what real Cilium shows; else fails with the first difference on the way."""
    found = tuple(differences(expected, observed))
    if found:
        more = f" (and {len(found) - 1} more {'difference' if len(found) == 2 else 'differences'})" if found[1:] else ""
        return failed("; ".join((f"{found[0].sentence}{more}", *observed.hindrances)))
    if expected.host_routing is None:
        return passed(f"every tap shows what it should: {expected.source}")
    return passed(f"every tap shows what real Cilium shows: {recognise(observed).because}")


def judge_observed(cni: str, observed: Signature) -> Judgement:
    """Where nothing is known of what the taps should show: passes when the packets came to both pods, and says where
    they were seen."""
    if lost := lost_on_the_way(observed):
        return failed(lost)
    return passed(f"observed only, since no signature is known of {cni}: {way_in_words(observed)}")


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


_AT_ETH0 = "at the client's own eth0"
_INTERVAL_S = 0.01
_TOKEN_BYTE = 16
_SETTLE_S = (0.05, 0.25, 1.0)
"""How long tcpdump gets to take the last packets out of the kernel, by attempt. Whether that was enough is seen from
its own counts, and if it was not, the capture is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingSending:
    """One sending: the token in its packets, what ping said, what every tap saw. `is_last`: no other will come."""

    token: bytes
    sent: Completed
    captures: tuple[TapCapture, ...]
    is_last: bool


def _random_token() -> bytes:
    return secrets.token_bytes(_TOKEN_BYTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPing:
    """`token` and `sleep` are for tests: the mark in the packets' payload, and how to wait."""

    token: Callable[[], bytes] = _random_token
    sleep: Callable[[float], None] = time.sleep

    def sendings(
        self,
        context: CheckContext,
        raw: RawFiles,
        expression: str,
        *,
        count: int,
        before: Callable[[str], None] = lambda again: None,
    ) -> Iterator[PingSending]:
        """`count` requests whose captures are complete, and once more for as long as that is not enough. `before` is
        called when the taps listen, with what to add to names of raw files. Raises MeasureFailed when ping could not
        send, when the captures cannot be trusted, and when none is complete."""
        open_lab, pair = context.open_lab, context.pair
        pod, server = open_lab.target(pair.client), str(open_lab.lab.server(pair).address)
        # The neighbours on the way are resolved first, so that no packet waits for ARP while it is being watched.
        once = PingParameters(count=1, interval_s=_INTERVAL_S)
        warm = raw.save_completed("warm-up", pod.run(argv_ping(server, once), timeout_s=ping_timeout_s(once)))
        require_sent(warm, once.count)
        if learning_s := network_of(open_lab.lab).learning_s:
            self.sleep(learning_s)
        marked = PingParameters(count=count, interval_s=_INTERVAL_S)
        for attempt, settle_s in enumerate(_SETTLE_S, start=1):
            again = "" if attempt == 1 else f"-{attempt}"
            token = self.token()
            with capturing(open_lab.taps(pair), expression) as live:
                before(again)
                sent = pod.run(argv_ping(server, marked, pattern=token), timeout_s=ping_timeout_s(marked))
                self.sleep(settle_s)
                captures = live.stop()
            raw.save_completed(f"ping{again}", sent)
            for capture in captures:
                raw.save_completed(f"{capture.tap.role}{again}", capture.completed, output="pcap")
            require_trustworthy(captures)
            require_sent(sent, count)
            if not any(capture.counts is not None and capture.counts.left_behind for capture in captures):
                yield PingSending(token=token, sent=sent, captures=captures, is_last=attempt == len(_SETTLE_S))
        raise MeasureFailed(
            "the capture is not complete",
            f"in {len(_SETTLE_S)} attempts tcpdump left packets behind in the kernel's buffer: the host is overloaded",
        )
