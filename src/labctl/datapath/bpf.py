"""The bpf(2) system call: maps and programs by file descriptor and by id. Knows nothing of what maps hold."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path

from labctl.values import dataclass

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_ATTRIBUTE_BYTES = 128
_NO_BATCH = {errno.EINVAL, 524}  # 524 is the kernel's own ENOTSUPP, which errno.h does not have


class _BpfCommand(IntEnum):
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    RAW_TRACEPOINT_OPEN = 17
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    LINK_CREATE = 28


class MapType(IntEnum):
    """`enum bpf_map_type`, as far as labctl's objects have them; other types keep their number."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    QUEUE = 22
    DEVMAP_HASH = 25
    RINGBUF = 27


class CgroupHook(IntEnum):
    """`enum bpf_attach_type`, as far as labctl attaches programs to cgroups; the names are those of their sections."""

    CONNECT4 = 10
    SENDMSG4 = 14
    RECVMSG4 = 19
    GETPEERNAME4 = 29
    SOCK_RELEASE = 34


_ALLOW_MULTI = 2
"""Programs of the cgroups above, which are not labctl's, run as well."""

Entry = tuple[bytes, tuple[bytes, ...]]
"""A key of a map with its values: one, or one for each possible CPU."""

_PER_CPU = {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, 10, 21}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInfo:
    """What the kernel says of a map. Sizes in bytes; `value_size` is of one CPU's value."""

    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int

    @property
    def is_per_cpu(self) -> bool:
        return self.type in _PER_CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInfo:
    """What the kernel says of a program. `run_count` and `run_time_ns` grow only while statistics are enabled.

    `name` is cut after 15 characters; `tag` is the digest of the instructions, equal in every copy of one object.
    """

    id: int
    name: str
    type: int
    tag: str
    run_count: int
    run_time_ns: int
    map_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """What a program did with one packet: its return value, the packet afterwards, its time, and the context that it
    left (empty where none was given)."""

    returned: int
    packet: bytes
    duration_ns: int
    context: bytes


def update(descriptor: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Puts every entry into a map that has one value for all CPUs; replaces what is there. Raises OSError.

    In one system call where the kernel can do so (hash and array maps since 5.6), else one for each entry.
    """
    pending = tuple(entries)
    if len(pending) > 1:
        all_keys, all_values = _buffer(b"".join(k for k, _ in pending)), _buffer(b"".join(v for _, v in pending))
        attribute = bytearray(_ATTRIBUTE_BYTES)
        struct.pack_into(
            "=QQQQIIQQ",
            attribute,
            0,
            0,
            0,
            ctypes.addressof(all_keys),
            ctypes.addressof(all_values),
            len(pending),
            descriptor,
            0,
            0,
        )
        try:
            _call(_BpfCommand.MAP_UPDATE_BATCH, attribute)
            return
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
    for key, value in pending:
        key_buffer, value_buffer = _buffer(key), _buffer(value)
        _call(_BpfCommand.MAP_UPDATE_ELEM, _element(descriptor, key_buffer, value_buffer))


def lookup(descriptor: int, key: bytes, value_size: int) -> bytes | None:
    """The value under `key`, or None. `value_size` in bytes; for a per-CPU map see `dump`."""
    key_buffer, value_buffer = _buffer(key), ctypes.create_string_buffer(value_size)
    try:
        _call(_BpfCommand.MAP_LOOKUP_ELEM, _element(descriptor, key_buffer, value_buffer))
    except FileNotFoundError:
        return None
    return value_buffer.raw


def delete(descriptor: int, key: bytes) -> bool:
    """Removes the entry; False when there was none."""
    key_buffer = _buffer(key)
    try:
        _call(_BpfCommand.MAP_DELETE_ELEM, _element(descriptor, key_buffer, None))
    except FileNotFoundError:
        return False
    return True


def keys(descriptor: int, key_size: int) -> Iterator[bytes]:
    """Every key. Entries that come or go meanwhile may be missed."""
    current: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        try:
            _call(_BpfCommand.MAP_GET_NEXT_KEY, _element(descriptor, current, following))
        except FileNotFoundError:
            return
        yield following.raw
        current = following


def dump(descriptor: int) -> Iterator[Entry]:
    """Every key with its values: one, or one for each possible CPU."""
    info = map_info(descriptor)
    copies = possible_cpus() if info.is_per_cpu else 1
    stride = (info.value_size + 7) & ~7 if info.is_per_cpu else info.value_size
    for key in keys(descriptor, info.key_size):
        data = lookup(descriptor, key, stride * copies)
        if data is not None:
            yield key, tuple(data[n * stride : n * stride + info.value_size] for n in range(copies))


_BATCH = 4096


def contents(descriptor: int) -> dict[bytes, bytes]:
    """Every entry of a map that has one value for all CPUs: thousands in one system call where the kernel can do so
    (hash maps, arrays and tries), else as `dump`. Raises OSError."""
    info = map_info(descriptor)
    room = min(info.max_entries, _BATCH)
    found: dict[bytes, bytes] = {}
    place = ctypes.create_string_buffer(max(info.key_size, 4))
    following = ctypes.create_string_buffer(max(info.key_size, 4))
    is_first = True
    while True:
        keys_buffer = ctypes.create_string_buffer(info.key_size * room)
        values_buffer = ctypes.create_string_buffer(info.value_size * room)
        attribute = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        struct.pack_into(
            "=QQQQIIQQ",
            attribute,
            0,
            0 if is_first else ctypes.addressof(place),
            ctypes.addressof(following),
            ctypes.addressof(keys_buffer),
            ctypes.addressof(values_buffer),
            room,
            descriptor,
            0,
            0,
        )
        is_last = False
        try:
            _system_call(_BpfCommand.MAP_LOOKUP_BATCH, attribute)
        except FileNotFoundError:
            is_last = True
        except OSError as refused:
            if refused.errno == errno.ENOSPC and room < info.max_entries:  # one bucket has more than that
                room = min(room * 4, info.max_entries)
                continue
            if refused.errno in _NO_BATCH:
                return {key: values[0] for key, values in dump(descriptor)}
            raise
        (count,) = struct.unpack_from("=I", attribute, 32)
        all_keys, all_values = keys_buffer.raw, values_buffer.raw
        for number in range(count):
            key = all_keys[number * info.key_size : (number + 1) * info.key_size]
            found[key] = all_values[number * info.value_size : (number + 1) * info.value_size]
        if is_last:
            return found
        place, following, is_first = following, place, False


def program_descriptor(program_id: int) -> int:
    """A new file descriptor of the program. The caller closes it."""
    return _opened(_BpfCommand.PROG_GET_FD_BY_ID, program_id)


def map_descriptor(map_id: int) -> int:
    """A new file descriptor of the map. The caller closes it."""
    return _opened(_BpfCommand.MAP_GET_FD_BY_ID, map_id)


def map_info(descriptor: int) -> MapInfo:
    data = _info(descriptor, 88)
    kind, number, key_size, value_size, max_entries, _flags = struct.unpack_from("=IIIIII", data)
    return MapInfo(
        id=number,
        name=_text(data[24:40]),
        type=kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
    )


_MAX_MAPS = 64
_PROGRAM_INFO_BYTES = 208


def program_info(descriptor: int) -> ProgramInfo:
    map_ids = (ctypes.c_uint32 * _MAX_MAPS)()
    request = bytearray(_PROGRAM_INFO_BYTES)
    struct.pack_into("=I", request, 52, _MAX_MAPS)
    struct.pack_into("=Q", request, 56, ctypes.addressof(map_ids))
    data = _info(descriptor, _PROGRAM_INFO_BYTES, bytes(request))
    kind, number = struct.unpack_from("=II", data)
    (map_count,) = struct.unpack_from("=I", data, 52)
    run_time_ns, run_count = struct.unpack_from("=QQ", data, 192)
    return ProgramInfo(
        id=number,
        name=_text(data[64:80]),
        type=kind,
        tag=data[8:16].hex(),
        run_count=run_count,
        run_time_ns=run_time_ns,
        map_ids=tuple(map_ids[:map_count]),
    )


def maps_of_program(descriptor: int) -> dict[str, int]:
    """New file descriptors of the maps that a program uses, by name: how the maps of a running lab are found.
    The caller closes them."""
    found: dict[str, int] = {}
    for map_id in program_info(descriptor).map_ids:
        opened = map_descriptor(map_id)
        found[map_info(opened).name] = opened
    return found


def run_program(descriptor: int, packet: bytes, *, context: bytes = b"", repeat: int = 1) -> ProgramRun:
    """Runs a tc program on a packet, without any device. `context` is a `struct __sk_buff`, of which the kernel
    takes mark, priority, ifindex (of an existing device), cb, tstamp and GSO fields."""
    inside, outside = _buffer(packet), ctypes.create_string_buffer(len(packet) + 512)
    inner, outer = _buffer(context), ctypes.create_string_buffer(max(len(context), 1))
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into(
        "=IIIIQQIIIIQQ",
        attribute,
        0,
        descriptor,
        0,
        len(packet),
        len(outside),
        ctypes.addressof(inside),
        ctypes.addressof(outside),
        repeat,
        0,
        len(context),
        len(context),
        ctypes.addressof(inner) if context else 0,
        ctypes.addressof(outer) if context else 0,
    )
    answer = _call_in_place(_BpfCommand.PROG_TEST_RUN, attribute)
    returned, _, size = struct.unpack_from("=III", answer, 4)
    (duration_ns,) = struct.unpack_from("=I", answer, 36)
    return ProgramRun(
        returned=returned, packet=outside.raw[:size], duration_ns=duration_ns, context=outer.raw[: len(context)]
    )


XDP = 6
"""`BPF_PROG_TYPE_XDP`."""


def load_program(kind: int, instructions: bytes, name: str) -> int:
    """Loads a program of that type from its bytes, eight an instruction; gives a descriptor, which the caller closes.
    `name` has at most 15 characters. Raises OSError."""
    code, licence = _buffer(instructions), _buffer(b"GPL")
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into(
        "=IIQQIIQII16s",
        attribute,
        0,
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        name.encode()[:15],
    )
    return _call(_BpfCommand.PROG_LOAD, attribute)


_BPF_XDP, _XDP_FLAGS_DRV_MODE = 37, 4


def link_xdp(program: int, device: int) -> int:
    """Puts an XDP program (its descriptor) on a device (its index) of the calling thread's namespace, where the driver
    takes frames in. Gives a descriptor: with its last copy the program is off the device. Raises OSError."""
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIII", attribute, 0, program, device, _BPF_XDP, _XDP_FLAGS_DRV_MODE)
    return _call(_BpfCommand.LINK_CREATE, attribute)


NETFILTER, AT_NETFILTER = 32, 45
"""`BPF_PROG_TYPE_NETFILTER`, and where such programs go (Linux 6.4)."""
_IPV4 = 2


def attach_tracing(program: int) -> int:
    """Runs a program of a tracepoint whenever that is passed. Gives a descriptor: with its last copy that ends. Raises
    OSError."""
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=QI", attribute, 0, 0, program)
    return _call(_BpfCommand.RAW_TRACEPOINT_OPEN, attribute)


def link_netfilter(program: int, hook: int, priority: int) -> int:
    """Puts a program at one of netfilter's hooks for IPv4 in the calling thread's namespace. Gives a descriptor: with
    its last copy the program is off it. Raises OSError."""
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIIIIIiI", attribute, 0, program, 0, AT_NETFILTER, 0, _IPV4, hook, priority, 0)
    return _call(_BpfCommand.LINK_CREATE, attribute)


def attach_to_cgroup(cgroup: int, program: int, hook: CgroupHook) -> None:
    """Attaches a program to a cgroup (a descriptor of its directory), which holds it from then on. Raises OSError."""
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIII", attribute, 0, cgroup, program, hook, _ALLOW_MULTI)
    _call(_BpfCommand.PROG_ATTACH, attribute)


def detach_from_cgroup(cgroup: int, program: int, hook: CgroupHook) -> None:
    """Takes a program (its descriptor) off a cgroup (a descriptor of its directory). Raises OSError."""
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=III", attribute, 0, cgroup, program, hook)
    _call(_BpfCommand.PROG_DETACH, attribute)


_MOST_ATTACHED = 64


def attached_to_cgroup(cgroup: int, hook: CgroupHook) -> tuple[int, ...]:
    """The ids of the programs that are attached to the cgroup itself. Raises OSError."""
    ids = (ctypes.c_uint32 * _MOST_ATTACHED)()
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIIIQI", attribute, 0, cgroup, hook, 0, 0, ctypes.addressof(ids), _MOST_ATTACHED)
    (count,) = struct.unpack_from("=I", _call_in_place(_BpfCommand.PROG_QUERY, attribute), 24)
    return tuple(ids[:count])


def possible_cpus(listing: str | None = None) -> int:
    """How many values a per-CPU map has: the CPUs that the kernel could ever have, not those that are online."""
    if listing is None:
        listing = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    last = listing.strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _element(
    descriptor: int, key: ctypes.Array[ctypes.c_char] | None, value: ctypes.Array[ctypes.c_char] | None
) -> bytearray:
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into(
        "=IxxxxQQQ",
        attribute,
        0,
        descriptor,
        ctypes.addressof(key) if key is not None else 0,
        ctypes.addressof(value) if value is not None else 0,
        0,
    )
    return attribute


def _opened(command: _BpfCommand, number: int) -> int:
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=I", attribute, 0, number)
    return _call(command, attribute)


def _info(descriptor: int, size: int, request: bytes = b"") -> bytes:
    """Older kernels fill in less than `size` bytes: the rest stays 0."""
    buffer = ctypes.create_string_buffer(request, size)
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIQ", attribute, 0, descriptor, size, ctypes.addressof(buffer))
    _call(_BpfCommand.OBJ_GET_INFO_BY_FD, attribute)
    return buffer.raw


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode()


_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(command: _BpfCommand, attribute: bytearray) -> int:
    buffer = ctypes.create_string_buffer(bytes(attribute), len(attribute))
    return _system_call(command, buffer)


def _call_in_place(command: _BpfCommand, attribute: bytearray) -> bytes:
    buffer = ctypes.create_string_buffer(bytes(attribute), len(attribute))
    _system_call(command, buffer)
    return buffer.raw


def _system_call(command: _BpfCommand, buffer: ctypes.Array[ctypes.c_char]) -> int:
    machine = platform.machine()
    number = _SYSCALL_NUMBER.get(machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"labctl does not know the number of bpf(2) on {machine}")
    result: int = _LIBC.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({command.name}): {os.strerror(number)}")
    return result
