"""Checksums that a device leaves to others, and with them packets larger than its MTU: switched off and on (ethtool).

The format is that of linux/ethtool.h. It stands alone because nothing else speaks to devices by ioctl.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17


def set_transmit_offloads(device: str, *, is_on: bool) -> None:
    """Of a device of the namespace that the calling thread is in. Off, every packet that it sends has its checksum and
    is no larger than its MTU. Raises OSError."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, int(is_on)), 8)
    request = struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        fcntl.ioctl(asking, _SIOCETHTOOL, request)
