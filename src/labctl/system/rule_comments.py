"""The netfilter rules of a namespace by their comments, read from the kernel without a process for each namespace.

Both of iptables' ways into the kernel are read, since a host may have either: nf_tables by netlink (linux/netfilter/
nf_tables.h) and ip_tables by socket options (linux/netfilter_ipv4/ip_tables.h). A rule without a comment is not seen.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from labctl.system.netlink import ALL, Protocol, Request, Socket, attributes, string

_GET_RULES = 10 << 8 | 7  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETRULE
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


def _nf_tables() -> Iterator[tuple[str, str]]:
    with Socket(Protocol.NETFILTER) as channel:
        for body in channel.ask(Request(_GET_RULES, ALL, _GENMSG.pack(socket.AF_INET, 0, 0))):
            found = parse_rule(body)
            if found is not None:
                yield found


def parse_rule(body: bytes) -> tuple[str, str] | None:
    """Table and comment of one answer of nf_tables; None for a rule without a comment."""
    known = dict(attributes(body, _GENMSG.size))
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
