"""Checksums that a device leaves to others, and with them packets larger than its MTU: switched off and on (ethtool).

The format is that of linux/ethtool.h. It stands alone because nothing else speaks to devices by ioctl.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17


def set_transmit_offloads(device: str, *, is_on: bool) -> None:
    """Of a device of the namespace that the calling thread is in. Off, every packet that it sends has its checksum and
    is no larger than its MTU. Raises OSError."""
    _ask(device, _ETHTOOL_STXCSUM, int(is_on))


def has_transmit_offloads(device: str) -> bool:
    """Of a device of the namespace that the calling thread is in. Raises OSError."""
    return bool(_ask(device, _ETHTOOL_GTXCSUM))


def _ask(device: str, command: int, given: int = 0) -> int:
    value = ctypes.create_string_buffer(struct.pack("=II", command, given), 8)
    request = struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        fcntl.ioctl(asking, _SIOCETHTOOL, request)
    return int(struct.unpack("=II", value.raw)[1])
