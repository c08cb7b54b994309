"""The tcpdump check: a known packet goes through while every tap of the pair is captured, and gives the signature.

The signature is compared with what real Cilium shows in the mode that the scenario asks for. A capture that cannot be
trusted (a tap that does not listen, packets that were dropped, a filter that sees nothing) is `error`, never `fail`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, failed, measure, passed, said
from labctl.checks.ping import PingReport, argv_ping, parse_ping, ping_timeout_s
from labctl.checks.raw import RawFiles
from labctl.errors import MeasureFailed
from labctl.model.parameters import CheckParameters, PingParameters, TcpdumpParameters
from labctl.model.result import CheckResult, Metric
from labctl.model.signature import ExpectedSignature, Role, Signature
from labctl.path.capture import TapCapture, capturing, echo_filter
from labctl.path.capture import require_trustworthy as require_trustworthy
from labctl.path.difference import differences
from labctl.path.expected import expected_for as expected_for
from labctl.path.recognise import recognise
from labctl.path.sighting import Matcher, Sighting, match_echo, sightings
from labctl.path.signature import build_signature, vtep_roles

_INTERVAL_S = 0.01
_TOKEN_BYTE = 16
_SETTLE_S = (0.05, 0.25, 1.0)
"""How long tcpdump gets to take the last packets out of the kernel, by attempt. Whether that was enough is seen from
its own counts, and if it was not, the capture is repeated."""


class TcpdumpCheck:
    """Which taps see the request, which the reply, and whether that is the mode that was asked for.

    `token` and `sleep` are for tests: the mark in the packets' payload, and how to wait.
    """

    kind = "tcpdump"
    tools = ("tcpdump", "ping")

    def __init__(
        self,
        *,
        token: Callable[[], bytes] = lambda: secrets.token_bytes(_TOKEN_BYTE),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._token = token
        self._sleep = sleep

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return ()

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, TcpdumpParameters):
            raise TypeError(f"tcpdump cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            observed = self.observe(context, raw, parameters)
            expected = expected_for(context.open_lab.lab, context.pair, packets=parameters.count)
            return Measured(judgement=judge_signature(expected, observed), values={}, signature=observed)

        return measure(context, self.metrics(parameters), body)

    def observe(self, context: CheckContext, raw: RawFiles, parameters: TcpdumpParameters) -> Signature:
        """Takes the signature without judging it. Raises MeasureFailed when the captures cannot be trusted."""
        open_lab, pair = context.open_lab, context.pair
        lab, taps = open_lab.lab, open_lab.taps(pair)
        client, server = lab.pod(pair.client).address, lab.pod(pair.server).address
        client_pod = open_lab.target(pair.client)
        once = PingParameters(count=1, interval_s=_INTERVAL_S)
        # The neighbours on the way are resolved first, so that no packet waits for ARP while it is being watched.
        argv = argv_ping(str(server), once)
        raw.save_completed("warm-up", client_pod.run(argv, timeout_s=ping_timeout_s(once)))
        marked = PingParameters(count=parameters.count, interval_s=_INTERVAL_S)
        for attempt, settle_s in enumerate(_SETTLE_S, start=1):
            token = self._token()
            with capturing(taps, echo_filter(client, server)) as live:
                argv = argv_ping(str(server), marked, pattern=token)
                sent = client_pod.run(argv, timeout_s=ping_timeout_s(marked))
                self._sleep(settle_s)
                captures = live.stop()
            again = "" if attempt == 1 else f"-{attempt}"
            raw.save_completed(f"ping{again}", sent)
            for capture in captures:
                raw.save_completed(f"{capture.tap.role}{again}", capture.completed, output="pcap")
            require_trustworthy(captures)
            if any(capture.counts is not None and capture.counts.left_behind for capture in captures):
                continue
            seen = tuple(_sightings(captures, match_echo(client, server, token)))
            if not any(sighting.role is Role.CLIENT_ETH0 for sighting in seen):
                if attempt < len(_SETTLE_S) and sent.returncode == 0:
                    continue
                raise MeasureFailed(
                    "the capture sees nothing",
                    f"the known packet was not even seen at the client's own eth0; ping: {said(sent)}",
                )
            return build_signature(
                taps=[(tap.name, tap.role) for tap in taps],
                sightings=seen,
                mac_roles=mac_roles(context),
                vtep_roles=vtep_roles(lab, pair),
                placement=pair.placement,
                encapsulation=lab.datapath.encapsulation,
                ping_ttl=_ping_ttl(sent.text),
            )
        raise MeasureFailed(
            "the capture is not complete",
            f"in {len(_SETTLE_S)} attempts tcpdump left packets behind in the kernel's buffer: the host is overloaded",
        )


def judge_signature(expected: ExpectedSignature, observed: Signature) -> Judgement:
    """Passes when every tap shows what real Cilium shows; else fails with the first difference on the way."""
    found = tuple(differences(expected, observed))
    if found:
        more = f" (and {len(found) - 1} more {'difference' if len(found) == 2 else 'differences'})" if found[1:] else ""
        return failed(f"{found[0].sentence}{more}")
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
