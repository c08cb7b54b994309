"""The `checks` section of a file, made from the parameter classes that the checks themselves read.

Names, types, defaults and bounds come from `model/parameters.py`; this module owns the descriptions, and one rule:
a parameter called `max_…` or `min_…` is an expectation and stands under `expect:`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, StringConstraints, create_model

from labctl.model.parameters import PARAMETERS_OF
from labctl.model.section import Section
from labctl.names import NAME_PATTERN

EXPECTATION_PREFIXES = ("max_", "min_")

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ping": {
            "": "ICMP echo from the client to the server: loss and round-trip times, from every reply.",
            "count": "How many echo requests are sent.",
            "interval_s": "Seconds from one request to the next. 0: each goes when the reply to the one before came.",
            "size_byte": "Bytes of payload in each request.",
            "slices": "How many processes share the requests; other runs of a comparison take their turn between.",
            "max_loss": "The share of requests that may go unanswered: 0 is none, 1 is all.",
        },
        "iperf": {
            "": "iperf3 from the client to the server: throughput, retransmits (TCP), loss and jitter (UDP), own CPU.",
            "protocol": "What carries the data.",
            "duration_s": "Seconds of sending. iperf3 counts whole seconds: a fraction is rounded up.",
            "streams": "How many connections send at the same time.",
            "rate_bit_per_s": "The sending rate of UDP, in bit/s. TCP sends what it can.",
            "min_throughput_bit_per_s": "The least throughput that passes, in bit/s.",
            "max_loss": "The share of UDP datagrams that may be lost: 0 is none, 1 is all.",
        },
        "latency": {
            "": "sockperf request and response over TCP, one request in flight: percentiles, transactions/s, own CPU.",
            "duration_s": "Seconds of measuring.",
            "message_byte": "Bytes in each request and each response.",
        },
        "paced": {
            "": "sockperf requests over TCP at a fixed rate, each measured from when it was due: queueing shows.",
            "duration_s": "Seconds of measuring.",
            "message_byte": "Bytes in each request and each response.",
            "rate_per_s": "Requests per second; well below what the path can carry.",
        },
        "connect": {
            "": "Short TCP connections one after the other: connections/s, and own CPU per connection.",
            "duration_s": "Seconds of measuring.",
        },
        "tcpdump": {
            "": "Captures at every tap while a known packet goes through; the signature must be that of the mode.",
            "count": "How many echo requests go through while the captures run.",
        },
        "addressing": {
            "": "Pod mask, gateway, ARP, TTLs, VXLAN envelope and MTU, each found by looking and explained.",
            "count": "How many echo requests go through while the captures run.",
        },
        "service": {
            "": "Services that the server is a backend of: who answered, where the address was translated, and how.",
            "connections": "How many connections are made to each Service.",
        },
        "netfilter": {
            "": "Which netfilter hooks of the nodes a known number of packets goes through, and conntrack's entries.",
            "count": "How many echo requests are sent.",
        },
    }
)


def is_expectation(parameter: str) -> bool:
    return parameter.startswith(EXPECTATION_PREFIXES)


def _check_model(kind: str) -> type[Section]:
    """The model of one entry under `checks` whose `check` is `kind`."""
    parameters = PARAMETERS_OF[kind]
    described = DESCRIPTIONS.get(kind, {})
    hints = get_type_hints(parameters, include_extras=True)
    own: dict[str, Any] = {
        "check": (Literal[kind], Field(description="The kind of check.")),
        "name": (
            Annotated[str, StringConstraints(pattern=NAME_PATTERN)] | None,
            Field(None, description="What reports call this check. Without it, the kind is the name."),
        ),
    }
    expected: dict[str, Any] = {}
    for parameter in fields(parameters):
        default = parameter.default if parameter.default is not MISSING else None
        made = (hints[parameter.name], Field(default, description=described.get(parameter.name)))
        (expected if is_expectation(parameter.name) else own)[parameter.name] = made
    if expected:
        expect = create_model(
            f"{kind.title()}Expect", __base__=Section, __doc__="What must hold for the check to pass.", **expected
        )
        own["expect"] = (expect | None, Field(None, description="What must hold for the check to pass."))
    model: type[Section] = create_model(f"{kind.title()}Check", __base__=Section, __doc__=described.get(""), **own)
    return model


def checks_type() -> Any:
    """The type of `checks`: a list with one model a kind, told apart by `check`."""
    entry: Any = Annotated[reduce(or_, map(_check_model, PARAMETERS_OF)), Field(discriminator="check")]
    entries: Any = tuple[entry, ...]
    return Annotated[entries, Field(min_length=1, max_length=1_000)] | None
