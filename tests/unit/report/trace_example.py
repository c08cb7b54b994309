"""Traces for tests of the views, made by hand: the ways of `docs/datapath.md`, in all eight cells, without any lab."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labctl.model.evidence import Evidence
from labctl.model.lab import POD_PLACEMENTS, Encapsulation, HostRouting, Placement
from labctl.model.signature import Role, Signature
from labctl.model.trace import (
    Carriage,
    Hop,
    HopEnvelope,
    KnownAddress,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    ProbeProtocol,
    Skipped,
    TapDirection,
    Trace,
    TraceTap,
    Way,
    WrongTurn,
)
from labctl.testing.labs import RECORDED

BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
SAME, CROSS = Placement.SAME_NODE, Placement.CROSS_NODE
CELLS = tuple((mode, how, where) for mode in HostRouting for how in RECORDED for where in POD_PLACEMENTS)
REDIRECTED = "never transmitted on {device}: redirected into the pod"
NOT_ON_THE_WAY = "no packet between pods goes there"

DEVICES = {
    Role.CLIENT_ETH0: ("client", "eth0"),
    Role.CLIENT_LXC: ("node1", "lxc948fe603f61d"),
    Role.CLIENT_CILIUM_HOST: ("node1", "cilium_host"),
    Role.CLIENT_CILIUM_NET: ("node1", "cilium_net"),
    Role.CLIENT_CILIUM_VXLAN: ("node1", "cilium_vxlan"),
    Role.CLIENT_UPLINK: ("node1", "eth0"),
    Role.CLIENT_LO: ("node1", "lo"),
    Role.CLIENT_BRIDGE_PORT: ("underlay", "port1"),
    Role.SERVER_BRIDGE_PORT: ("underlay", "port2"),
    Role.SERVER_LO: ("node2", "lo"),
    Role.SERVER_UPLINK: ("node2", "eth0"),
    Role.SERVER_CILIUM_VXLAN: ("node2", "cilium_vxlan"),
    Role.SERVER_CILIUM_NET: ("node2", "cilium_net"),
    Role.SERVER_CILIUM_HOST: ("node2", "cilium_host"),
    Role.SERVER_LXC: ("node2", "lxcb3eacd33433b"),
    Role.SERVER_ETH0: ("server", "eth0"),
}
KEY = PacketKey(src="10.244.0.10", dst="10.244.1.10", protocol="icmp", first=7, second=1)


def example_trace(mode: HostRouting, how: Encapsulation, where: Placement, *, packets: int = 1) -> Trace:
    """What such a trace looks like when all is well."""
    cell = _Cell(mode=mode, how=how, where=where)
    paths = tuple(cell.path(way, number + 1) for number in range(packets) for way in Way)
    return Trace(
        lab="my-lab",
        scenario=f"{mode}-{how}",
        provider="netns",
        statement="The datapath is labctl's own, not Cilium: eBPF programs with Cilium's hooks and helpers.",
        client="client",
        server="server",
        client_address="10.244.0.10",
        server_address="10.244.1.10",
        client_node="node1",
        server_node=cell.server_node,
        placement=where,
        asked={"hostRouting": str(mode), "encapsulation": str(how)},
        protocol=ProbeProtocol.ICMP,
        sent=packets,
        replied=packets,
        taps=tuple(cell.tap(role) for role in cell.roles()),
        paths=paths,
        signature=Signature(placement=str(where), encapsulation=how, taps=()),
        host_routing=str(mode),
        recognised="the reply appeared in the client pod and never on its lxc",
        expected_source="recorded on a real cluster",
        evidence=(
            Evidence(
                witness="conntrack",
                where="node1",
                finding="conntrack has no entry of the pair",
                supports=True,
                command="conntrack -L -s 10.244.0.10",
            ),
        ),
        command="labctl trace my-lab client server",
    )


def lost_trace() -> Trace:
    """The request goes into an envelope to a node that is not there; nobody answers."""
    trace = example_trace(BPF, VXLAN, CROSS)
    request = trace.paths[0]
    last = next(number for number, hop in enumerate(request.hops) if hop.role is Role.CLIENT_BRIDGE_PORT)
    sentence = "the tunnel entry names another node (VTEP): the envelope went to 172.30.0.254"
    hops = request.hops[: last + 1]
    rest = tuple(
        Skipped(tap=hop.tap, role=hop.role, reason="the packet was lost before", is_observed=False)
        for hop in request.hops[last + 1 :]
    )
    lost = replace(
        request, hops=hops, skipped=(*request.skipped, *rest), arrived=False, lost=sentence, lost_tap=hops[-1].tap
    )
    wrong = WrongTurn(way=Way.REQUEST, number=1, tap=hops[-1].tap, role=str(hops[-1].role), sentence=sentence)
    return replace(trace, paths=(lost,), replied=0, differences=(sentence,), wrong=wrong, host_routing="")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    mode: HostRouting
    how: Encapsulation
    where: Placement

    @property
    def server_node(self) -> str:
        return "node1" if self.where is SAME else "node2"

    def roles(self) -> tuple[Role, ...]:
        vxlan = (Role.CLIENT_CILIUM_VXLAN, Role.SERVER_CILIUM_VXLAN)
        all_roles = tuple(role for role in Role if role in DEVICES and (self.how is VXLAN or role not in vxlan))
        if self.where is CROSS:
            return all_roles
        kept = (Role.SERVER_LXC, Role.SERVER_ETH0)
        return tuple(
            role
            for role in all_roles
            if role in kept or (role.value.startswith("client") and role is not Role.CLIENT_BRIDGE_PORT)
        )

    def tap(self, role: Role) -> TraceTap:
        part, device = self.part(role), DEVICES[role][1]
        kind = "pod" if part in ("client", "server") else "underlay" if part == "underlay" else "node"
        node = {"client": "node1", "server": self.server_node, "underlay": ""}.get(part, part)
        return TraceTap(name=f"{part}:{device}", role=role, part=part, part_kind=kind, node=node, device=device)

    def part(self, role: Role) -> str:
        return "node1" if self.where is SAME and role is Role.SERVER_LXC else DEVICES[role][0]

    def way(self, way: Way) -> tuple[tuple[Role, Carriage], ...]:
        """Roles in the order of this way; written for the request and turned round for the reply."""
        peer = self.mode is BPF
        to_lxc = () if peer else ((Role.SERVER_LXC, Carriage.PROGRAM),)
        delivered = ((Role.SERVER_ETH0, Carriage.PROGRAM if peer else Carriage.WIRE),)
        start = ((Role.CLIENT_ETH0, Carriage.START), (Role.CLIENT_LXC, Carriage.WIRE))
        wire = ((Role.CLIENT_BRIDGE_PORT, Carriage.WIRE), (Role.SERVER_BRIDGE_PORT, Carriage.BRIDGE))
        middle: tuple[tuple[Role, Carriage], ...] = ()
        if self.where is CROSS and self.how is VXLAN:
            middle = (
                (Role.CLIENT_CILIUM_VXLAN, Carriage.PROGRAM), (Role.CLIENT_UPLINK, Carriage.TUNNEL), *wire,
                (Role.SERVER_UPLINK, Carriage.WIRE), (Role.SERVER_CILIUM_VXLAN, Carriage.TUNNEL),
            )  # fmt: skip
        elif self.where is CROSS:
            out = Carriage.PROGRAM if peer else Carriage.KERNEL
            middle = ((Role.CLIENT_UPLINK, out), *wire, (Role.SERVER_UPLINK, Carriage.WIRE))
        there = (*start, *middle, *to_lxc, *delivered)
        if way is Way.REQUEST:
            return there
        return tuple((_MIRRORED[role], carriage) for role, carriage in there)

    def path(self, way: Way, number: int) -> PacketPath:
        client, server = self.named("10.244.0.10", "client"), self.named("10.244.1.10", "server")
        source, destination = (client, server) if way is Way.REQUEST else (server, client)
        hops: list[Hop] = []
        ttl, enveloped = 64, False
        for count, (role, carriage) in enumerate(self.way(way)):
            tap = self.tap(role)
            movements: tuple[Movement, ...] = ()
            if carriage in (Carriage.PROGRAM, Carriage.KERNEL):
                before = hops[-1]
                helper = self.helper(role, way)
                after = ttl if "tunnel" in helper else ttl - 1
                movements = (self.moved(before, carriage, helper, tap.device, ttl, after),)
                if carriage is Carriage.KERNEL:
                    after -= 1
                    movements += tuple(self.hook(before, hook) for hook in ("PREROUTING", "FORWARD", "POSTROUTING"))
                ttl = after
            enveloped = (carriage is Carriage.TUNNEL) != enveloped if carriage is Carriage.TUNNEL else enveloped
            hops.append(
                Hop(
                    tap=tap.name,
                    role=role,
                    node=tap.node,
                    device=tap.device,
                    direction=TapDirection.OUT if count % 2 == 0 else TapDirection.IN,
                    time_ns=1_000_000 * number + 9_500 * count,
                    since_previous_ns=9_500 if count else None,
                    src=source.address,
                    dst=destination.address,
                    src_mac=KnownAddress(
                        address="02:00:00:00:00:01", role=f"{source.owner}-eth0", owner=f"{source.owner}:eth0"
                    ),
                    dst_mac=KnownAddress(address="02:00:00:00:00:02", role="client-lxc", owner="node1:lxc948fe603f61d"),
                    ttl=ttl,
                    envelope=self.envelope(way) if enveloped else None,
                    carriage=carriage,
                    because="" if carriage is not Carriage.TUNNEL else "the kernel's vxlan device put it into UDP",
                    moved_by=movements,
                )
            )
        seen = {hop.role for hop in hops}
        return PacketPath(
            way=way,
            number=number,
            what="ICMP echo request" if way is Way.REQUEST else "ICMP echo reply",
            hops=tuple(hops),
            skipped=tuple(self.skip(role) for role in self.roles() if role not in seen),
        )

    def skip(self, role: Role) -> Skipped:
        tap = self.tap(role)
        is_lxc = role in (Role.CLIENT_LXC, Role.SERVER_LXC)
        reason = REDIRECTED.format(device=tap.device) if is_lxc else NOT_ON_THE_WAY
        return Skipped(tap=tap.name, role=role, reason=reason, is_observed=is_lxc)

    def helper(self, role: Role, way: Way) -> str:
        if role in (Role.CLIENT_CILIUM_VXLAN, Role.SERVER_CILIUM_VXLAN):
            return "bpf_skb_set_tunnel_key, bpf_redirect"
        if role in (Role.CLIENT_UPLINK, Role.SERVER_UPLINK):
            return "bpf_redirect_neigh" if self.mode is BPF else "to-stack"
        return "bpf_redirect_peer" if self.mode is BPF else "bpf_redirect"

    def moved(self, before: Hop, carriage: Carriage, helper: str, target: str, ttl: int, after: int) -> Movement:
        program = {"cilium_vxlan": "cil_from_overlay", "eth0": "cil_from_netdev"}.get(
            before.device, "cil_from_container"
        )
        return Movement(
            node=before.node, mover=Mover.PROGRAM, what=program, device=before.device, hook="ingress", helper=helper,
            packet=KEY, target="" if carriage is Carriage.KERNEL else target, ttl_in=ttl, ttl_out=after,
        )  # fmt: skip

    def hook(self, before: Hop, hook: str) -> Movement:
        return Movement(
            node=before.node, mover=Mover.NETFILTER, what=hook, device="", hook="", helper="accepted", packet=KEY
        )

    def envelope(self, way: Way) -> HopEnvelope:
        ends = (
            KnownAddress(address="172.30.0.2", role="client-node", owner="node1"),
            KnownAddress(address="172.30.0.3", role="server-node", owner="node2"),
        )
        macs = (
            KnownAddress(address="02:00:00:00:01:01", role="client-node-uplink", owner="node1:eth0"),
            KnownAddress(address="02:00:00:00:01:02", role="server-node-uplink", owner="node2:eth0"),
        )
        if way is Way.REPLY:
            ends, macs = ends[::-1], macs[::-1]
        pod = "client" if way is Way.REQUEST else "server"
        return HopEnvelope(
            src=ends[0], dst=ends[1], src_mac=macs[0], dst_mac=macs[1], src_port=40123, dst_port=8472, ttl=64,
            vni=51130 if way is Way.REQUEST else 1279, identity_pods=(pod,), identity_labels=(f"app={pod}",),
        )  # fmt: skip

    @staticmethod
    def named(address: str, owner: str) -> KnownAddress:
        return KnownAddress(address=address, role=owner, owner=owner)


_MIRRORED = {
    role: next(other for other in Role if other.value == role.value.replace(old, new, 1))
    for role in Role
    for old, new in ((("client", "server") if role.value.startswith("client") else ("server", "client")),)
}
