"""Names of things on the host, and the mark by which labctl knows its own.

Every namespace of a lab is called `labctl.LAB.PART`; lab, node and pod names are DNS labels, which have no dots, so
two labs can never make the same name. The name alone proves nothing: the loopback device of each namespace also
carries `MARK` as its interface alias, and nothing is removed that lacks it.
"""

from __future__ import annotations

import hashlib
import re

MARK = "labctl"
UNDERLAY = "underlay"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"

LABEL_KEY_PATTERN = r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"

_NAME = re.compile(NAME_PATTERN)
_LABEL_KEY = re.compile(LABEL_KEY_PATTERN)
_LABEL_VALUE = re.compile(LABEL_VALUE_PATTERN)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}")


def is_name(text: str) -> bool:
    """True for a DNS label (RFC 1123) of at most 40 characters: what labs, nodes and pods may be called."""
    return _NAME.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """True for the key of a Kubernetes label."""
    return _LABEL_KEY.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """True for the value of a Kubernetes label, which may be empty."""
    return _LABEL_VALUE.fullmatch(text) is not None


def is_mac(text: str) -> bool:
    """True for six octets in lower-case hexadecimal."""
    return _MAC.fullmatch(text) is not None


def is_device(text: str) -> bool:
    """True for what labctl calls network devices: at most 15 characters (IFNAMSIZ - 1), none that a tool could read as
    an option or a path."""
    return _DEVICE.fullmatch(text) is not None


def namespace_of(lab: str, part: str) -> str:
    """The network namespace of a node, a pod, or the underlay: its file name under /run/netns."""
    return f"{MARK}.{lab}.{part}"


def split_namespace(namespace: str) -> tuple[str, str] | None:
    """The lab and the part that `namespace_of` was given, or None when the name is not of that form."""
    mark, _, rest = namespace.partition(".")
    lab, _, part = rest.partition(".")
    if mark != MARK or not is_name(lab) or not is_name(part):
        return None
    return lab, part


def cgroup_of(lab: str, *parts: str) -> str:
    """The cgroup of a lab, or one in it, below the root of cgroup v2."""
    return "/".join((f"{MARK}.{lab}", *parts))


def lxc_name(pod: str) -> str:
    """The host's end of a pod's veth pair, as Cilium names it."""
    return host_end("lxc", pod)


def host_end(prefix: str, pod: str) -> str:
    """The host's end of a pod's veth pair: the prefix (`lxc`) and hex digits, 15 characters (IFNAMSIZ - 1) in all."""
    return prefix + hashlib.sha256(pod.encode()).hexdigest()[: 15 - len(prefix)]


def stable_mac(*parts: str) -> str:
    """A locally administered unicast MAC address that depends on the parts alone."""
    digest = hashlib.sha256("/".join(parts).encode()).digest()
    octets = bytes(((digest[0] & 0xFC) | 0x02, *digest[1:6]))
    return octets.hex(":")
