"""The kinds of objects that a netns lab is made of: the one list that building and observing go by.

Each kind has its command, its act, its reading back and its undo in one module. They know Linux alone: which objects a
lab has is decided by `networks` and `fabrics`.
"""

from __future__ import annotations

from labctl.providers.netns.kinds.attached import PLUGINS
from labctl.providers.netns.kinds.base import Kind, Object
from labctl.providers.netns.kinds.cgroup import CGROUPS
from labctl.providers.netns.kinds.daemon import DAEMONS
from labctl.providers.netns.kinds.impairment import IMPAIRMENTS
from labctl.providers.netns.kinds.link import DEVICES
from labctl.providers.netns.kinds.namespace import NAMESPACES, RECORDS, SYSCTLS
from labctl.providers.netns.kinds.netfilter import CHAINS, RULES
from labctl.providers.netns.kinds.program import ENTRIES, PROGRAMS, QDISCS
from labctl.providers.netns.kinds.routing import ADDRESSES, NEIGHBOURS, POLICY_RULES, ROUTES, TUNNELS
from labctl.providers.netns.kinds.ruleset import RULESETS

KINDS: tuple[Kind, ...] = (
    NAMESPACES,
    SYSCTLS,
    DEVICES,
    ADDRESSES,
    ROUTES,
    POLICY_RULES,
    NEIGHBOURS,
    TUNNELS,
    RULES,
    CHAINS,
    RULESETS,
    QDISCS,
    PROGRAMS,
    IMPAIRMENTS,
    CGROUPS,
    ENTRIES,
    DAEMONS,
    PLUGINS,
    RECORDS,
)

OBJECTS: frozenset[type[Object]] = frozenset(made for kind in KINDS for made in kind.objects)
"""The classes that the provider can carry out."""
