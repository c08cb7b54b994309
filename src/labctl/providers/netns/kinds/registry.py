"""Every kind of object, in the order in which they are read back. Stands alone: the kinds know `base`, not each other's
list, and building as well as observing goes by it."""

from __future__ import annotations

from labctl.providers.netns.kinds.base import Kind, Object
from labctl.providers.netns.kinds.link import DEVICES
from labctl.providers.netns.kinds.namespace import NAMESPACES, SYSCTLS
from labctl.providers.netns.kinds.netfilter import RULES
from labctl.providers.netns.kinds.program import ENTRIES, PROGRAMS
from labctl.providers.netns.kinds.record import RECORDS
from labctl.providers.netns.kinds.routing import ADDRESSES, NEIGHBOURS, ROUTES

KINDS: tuple[Kind, ...] = (
    NAMESPACES,
    SYSCTLS,
    DEVICES,
    ADDRESSES,
    ROUTES,
    NEIGHBOURS,
    RULES,
    PROGRAMS,
    ENTRIES,
    RECORDS,
)

OBJECTS: frozenset[type[Object]] = frozenset(made for kind in KINDS for made in kind.objects)
"""The classes that the provider can carry out."""
