"""What the kernel of a network namespace shows of packets: rules, connections, traces, and how many arrived. No process
is started for any of it.

What the rules say, which packets are marked and what the steps mean is the caller's business. The formats are here:

- traces: what nf_tables reports of single packets that are marked for tracing (linux/netfilter/nf_tables.h,
  NFT_MSG_TRACE), with the netlink group that reports it.
- rules that live as long as their maker: libnftables in this process, one handle per namespace. A table with `flags
  owner` belongs to the handle's netlink socket. The kernel removes it when that socket closes, and so also when this
  process is killed.
- connections that the namespace tracks, read over netlink (linux/nfnetlink_conntrack.h).
- rules by their comments. Both of iptables' ways into the kernel are read, since a host may have either: nf_tables by
  netlink (linux/netfilter/nf_tables.h) and ip_tables by socket options (linux/netfilter_ipv4/ip_tables.h). A rule
  without a comment is not seen.
- chains of nf_tables by their names, likewise.
- arrivals: how many packets came to the namespace's IP stack, whichever way they were brought there (ipInReceives of
  RFC 1213). It is the positive side of "nothing was seen on the way": bpf_redirect_peer leaves no trace on a pod's lxc,
  but what it delivers is counted here, as is what the lxc delivers; ARP is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

from labctl.system.netlink import ALL, CHANGE, NetlinkFamily, Request, Socket, attributes, string
from labctl.values import dataclass

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_GROUP_NFTRACE = 9
_MESSAGE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_NLMSG = struct.Struct("=IHHII")
_GENERIC_BYTE = 4
_BUFFER_BYTE = 4 << 20
_DATAGRAM_BYTE = 1 << 16
_NF_DROP = 0


class Attribute(IntEnum):
    """`enum nft_trace_attributes`, as far as they are read here. CT_STATE is there since kernel 6.16."""

    TABLE = 1
    CHAIN = 2
    RULE_HANDLE = 3
    TYPE = 4
    VERDICT = 5
    ID = 6
    NETWORK_HEADER = 8
    TRANSPORT_HEADER = 9
    IIF = 10
    OIF = 12
    POLICY = 16
    CT_STATE = 21


class StepKind(IntEnum):
    """`enum nft_trace_types`."""

    POLICY = 1
    RETURN = 2
    RULE = 3


_CT_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One step of one packet. `packet` identifies a packet of one node while it lives. The headers stand in the first
    step of each base chain and are empty in the others. `is_drop` holds for a rule or a policy that drops. `ct_state`
    is empty where connection tracking has not come to the packet yet, and before kernel 6.16."""

    packet: int
    table: str
    chain: str
    kind: int
    handle: int = 0
    is_drop: bool = False
    iif: int = 0
    oif: int = 0
    network_header: bytes = b""
    transport_header: bytes = b""
    ct_state: str = ""


class TraceSocket:
    """Hears the trace of the namespace that the calling thread is in when it is made. `has_lost` says that steps came
    faster than they were read."""

    def __init__(self) -> None:
        self.has_lost = False
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NetlinkFamily.NETFILTER)
        try:
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER_BYTE)  # SO_RCVBUFFORCE
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> Iterator[TraceStep]:
        """Everything that is there; does not wait."""
        while True:
            try:
                data = self._socket.recv(_DATAGRAM_BYTE)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the kernel had to throw some away; what comes next is whole again
                self.has_lost = True
                continue
            yield from parse_trace(data)

    def close(self) -> None:
        self._socket.close()


def parse_trace(data: bytes) -> Iterator[TraceStep]:
    """The steps in one datagram; messages of other kinds are passed over."""
    offset = 0
    while offset + _NLMSG.size <= len(data):
        length, kind, *_ = _NLMSG.unpack_from(data, offset)
        if length < _NLMSG.size:
            return
        if kind == _MESSAGE:
            yield _parse(data[offset + _NLMSG.size + _GENERIC_BYTE : offset + length])
        offset += (length + 3) & ~3


def _parse(body: bytes) -> TraceStep:
    known = attributes(body)

    def number(kind: Attribute) -> int:
        return int.from_bytes(known.get(kind, b""), "big")

    verdict = attributes(known.get(Attribute.VERDICT, b"")).get(1)
    dropped_by_rule = verdict is not None and int.from_bytes(verdict, "big") == _NF_DROP
    kind = number(Attribute.TYPE)
    dropped_by_policy = Attribute.POLICY in known and number(Attribute.POLICY) == _NF_DROP
    return TraceStep(
        packet=number(Attribute.ID),
        table=string(known.get(Attribute.TABLE, b"")),
        chain=string(known.get(Attribute.CHAIN, b"")),
        kind=kind,
        handle=number(Attribute.RULE_HANDLE),
        is_drop=(kind == StepKind.RULE and dropped_by_rule) or (kind == StepKind.POLICY and dropped_by_policy),
        iif=number(Attribute.IIF),
        oif=number(Attribute.OIF),
        network_header=known.get(Attribute.NETWORK_HEADER, b""),
        transport_header=known.get(Attribute.TRANSPORT_HEADER, b""),
        ct_state=_CT_STATES.get(number(Attribute.CT_STATE), ""),
    )


LIBRARY = "libnftables.so.1"


class Nftables:
    """nf_tables of the namespace that the calling thread is in when this is made. Leaving it removes what it owns.

    Raises OSError when libnftables is not on this host.
    """

    def __init__(self) -> None:
        self._library = _libnftables()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise MemoryError("nft_ctx_new")
        self._library.nft_ctx_buffer_error(self._context)  # else it prints

    def run(self, commands: str) -> str:
        """Carries out all of the commands, or none. Gives the first line of what libnftables refused, else nothing."""
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) == 0:
            return ""
        said: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return (said.decode(errors="replace").splitlines() or ["refused, without an error message"])[0]

    def close(self) -> None:
        context, self._context = self._context, None
        if context:
            self._library.nft_ctx_free(context)

    def __enter__(self) -> Nftables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def _libnftables() -> Any:
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for function, result, arguments in (
        ("nft_ctx_new", pointer, (ctypes.c_uint32,)),
        ("nft_ctx_free", None, (pointer,)),
        ("nft_ctx_buffer_error", number, (pointer,)),
        ("nft_ctx_get_error_buffer", text, (pointer,)),
        ("nft_run_cmd_from_buffer", number, (pointer, text)),
    ):
        bound = getattr(library, function)
        bound.restype = result
        bound.argtypes = arguments
    return library


_GET_CONNECTIONS = 1 << 8 | 1
_DELETE_CONNECTIONS = 1 << 8 | 2
_HEADER = struct.Struct("=BBH")
_TUPLE_ORIGINAL = 1
_TUPLE_IP = 1
_TUPLE_PROTOCOL = 2
_IP_SOURCE = 1
_IP_DESTINATION = 2
_PROTOCOL_NUMBER = 1
_STATUS = 3
_SEEN_REPLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One entry, by its first direction. `protocol` is the IP protocol's number."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    is_answered: bool


def connections() -> tuple[Connection, ...]:
    """Every IPv4 entry of the namespace that the calling thread is in. Raises OSError where the kernel has no
    CONFIG_NF_CT_NETLINK."""
    with Socket(NetlinkFamily.NETFILTER) as channel:
        request = Request(_GET_CONNECTIONS, ALL, _HEADER.pack(socket.AF_INET, 0, 0))
        return tuple(found for found in map(_conntrack_entry, channel.ask(request)) if found is not None)


def forget_connections() -> None:
    """Of that namespace, all of them: the next packet of each is new to it, and is judged by the rules. Raises OSError
    as `connections`."""
    with Socket(NetlinkFamily.NETFILTER) as channel:
        channel.send((Request(_DELETE_CONNECTIONS, CHANGE, _HEADER.pack(socket.AF_INET, 0, 0)),))


def _conntrack_entry(body: bytes) -> Connection | None:
    known = attributes(body, _HEADER.size)
    original = attributes(known.get(_TUPLE_ORIGINAL, b""))
    addresses = attributes(original.get(_TUPLE_IP, b""))
    protocol = attributes(original.get(_TUPLE_PROTOCOL, b"")).get(_PROTOCOL_NUMBER, b"\0")
    if _IP_SOURCE not in addresses or _IP_DESTINATION not in addresses:
        return None
    return Connection(
        source=IPv4Address(addresses[_IP_SOURCE]),
        destination=IPv4Address(addresses[_IP_DESTINATION]),
        protocol=protocol[0],
        is_answered=bool(int.from_bytes(known.get(_STATUS, b"\0"), "big") & _SEEN_REPLY),
    )


_GET_RULES = 10 << 8 | 7  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETRULE
_GET_CHAINS = 10 << 8 | 4  # NFT_MSG_GETCHAIN
_CHAIN_TABLE = 1
_CHAIN_NAME = 3
_GENMSG = struct.Struct("=BBH")
_RULE_TABLE = 1
_RULE_EXPRESSIONS = 4
_RULE_USERDATA = 7
_USERDATA_COMMENT = 0

_IN_EXPRESSION = re.compile(rb"comment\0.{12}([^\0]+)", re.DOTALL)
"""The match `comment` in an expression: its name, an attribute with its revision, the head of the one with the text."""
_IN_ENTRY = re.compile(rb"comment\0.{22}([^\0]+)", re.DOTALL)
"""The match `comment` in an entry of ip_tables: 29 bytes of name, one of revision, the text."""

_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_IPT_SO_GET_INFO = 64
_IPT_SO_GET_ENTRIES = 65
_INFO_BYTES = 84
_INFO_SIZE_AT = 80
_ENTRIES_HEAD = struct.Struct("=32sI4x")

_libc = ctypes.CDLL(None, use_errno=True)


def rule_comments() -> tuple[tuple[str, str], ...]:
    """(table, comment) of each IPv4 rule that has a comment, of the namespace that the calling thread is in.

    Raises OSError when the kernel does not let them be read.
    """
    return (*_nf_tables(), *_ip_tables())


def chains() -> Iterator[tuple[str, str]]:
    """(table, chain) of every IPv4 chain of nf_tables, of the namespace that the calling thread is in. Raises
    OSError."""
    with Socket(NetlinkFamily.NETFILTER) as channel:
        for body in channel.ask(Request(_GET_CHAINS, ALL, _GENMSG.pack(socket.AF_INET, 0, 0))):
            known = attributes(body, _GENMSG.size)
            yield string(known.get(_CHAIN_TABLE, b"")), string(known.get(_CHAIN_NAME, b""))


def _nf_tables() -> Iterator[tuple[str, str]]:
    with Socket(NetlinkFamily.NETFILTER) as channel:
        for body in channel.ask(Request(_GET_RULES, ALL, _GENMSG.pack(socket.AF_INET, 0, 0))):
            found = parse_rule(body)
            if found is not None:
                yield found


def parse_rule(body: bytes) -> tuple[str, str] | None:
    """Table and comment of one answer of nf_tables; None for a rule without a comment."""
    known = attributes(body, _GENMSG.size)
    match = _IN_EXPRESSION.search(known.get(_RULE_EXPRESSIONS, b""))
    comment = match[1] if match else _userdata_comment(known.get(_RULE_USERDATA, b""))
    return (string(known.get(_RULE_TABLE, b"")), comment.decode(errors="replace")) if comment else None


def _userdata_comment(data: bytes) -> bytes:
    """Where `nft`, and some versions of iptables, keep a comment: type, length and value, a byte each of the first."""
    while len(data) >= 2:
        kind, length = data[0], data[1]
        if kind == _USERDATA_COMMENT:
            return data[2 : 2 + length].rstrip(b"\0")
        data = data[2 + length :]
    return b""


def _ip_tables() -> Iterator[tuple[str, str]]:
    try:
        tables = _LEGACY_TABLES.read_text(encoding="ascii").split()  # asking for another one would make it
    except FileNotFoundError:
        return
    for table in tables:
        yield from ((table, comment) for comment in parse_entries(_entries(table)))


def parse_entries(blob: bytes) -> tuple[str, ...]:
    """The comments in the entries of one table of ip_tables."""
    return tuple(found.decode(errors="replace") for found in _IN_ENTRY.findall(blob))


def _entries(table: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as asking:
        name = table.encode()
        info = _option(asking, _IPT_SO_GET_INFO, name.ljust(_INFO_BYTES, b"\0"))
        (size,) = struct.unpack_from("=I", info, _INFO_SIZE_AT)
        asked = _ENTRIES_HEAD.pack(name, size) + bytes(size)
        return _option(asking, _IPT_SO_GET_ENTRIES, asked)[_ENTRIES_HEAD.size :]


def _option(asking: socket.socket, option: int, asked: bytes) -> bytes:
    """A socket option that is asked for with the buffer that is answered in, which Python's own call leaves empty."""
    buffer = ctypes.create_string_buffer(asked, len(asked))
    length = ctypes.c_uint32(len(asked))
    if _libc.getsockopt(asking.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "getsockopt")
    return buffer.raw[: length.value]


ARGV = ("cat", "/proc/net/snmp")


def arrivals() -> int:
    """Of the namespace that the calling thread is in, so far. Raises OSError."""
    return parse_arrivals(Path("/proc/thread-self/net/snmp").read_text(encoding="ascii"))


def parse_arrivals(text: str) -> int:
    """InReceives of IPv4 from /proc/net/snmp: a line of names, then a line of numbers. Raises OSError (ENODATA) where
    it is not in the text."""
    lines = [line.split() for line in text.splitlines() if line.startswith("Ip:")]
    counters = dict(zip(*lines, strict=False)) if len(lines) == 2 else {}
    if not counters.get("InReceives", "").isdigit():
        raise OSError(errno.ENODATA, "it has no Ip InReceives")
    return int(counters["InReceives"])
