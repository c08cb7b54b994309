"""Signatures side by side: which taps saw the request and the reply, and where the sides differ; no layout.

This answers the question that the lab exists for: why a capture on lxc shows only one direction.
"""

from __future__ import annotations

from collections.abc import Mapping

from labctl.model.comparison import Comparison, SideSignature
from labctl.model.signature import Role, Seen, TapSight
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One place on the way. A side is None when it has no such tap (no vxlan device, for instance)."""

    role: Role
    a: TapSight | None
    b: TapSight | None

    @property
    def differs(self) -> bool:
        return cell_text(self.a) != cell_text(self.b)

    @property
    def is_silent(self) -> bool:
        return all(sight is None or (sight.request is None and sight.reply is None) for sight in (self.a, self.b))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureMatrix:
    """Both sides' signatures of one pair, in the order from client to server."""

    placement: str
    client: str
    server: str
    a: SideSignature | None
    b: SideSignature | None
    rows: tuple[MatrixRow, ...]

    @property
    def loud(self) -> tuple[MatrixRow, ...]:
        return tuple(row for row in self.rows if not row.is_silent)

    @property
    def silent(self) -> tuple[MatrixRow, ...]:
        return tuple(row for row in self.rows if row.is_silent)


def matrices(comparison: Comparison) -> tuple[SignatureMatrix, ...]:
    """One matrix for each pair that has a signature on either side; the last one of a side counts (after a rebuild)."""
    found: dict[tuple[str, str, str], dict[str, SideSignature]] = {}
    for seen in comparison.signatures:
        key = (str(seen.signature.placement), seen.client, seen.server)
        found.setdefault(key, {})[seen.side] = seen
    return tuple(
        _matrix(key, by_side.get(comparison.a.key), by_side.get(comparison.b.key))
        for key, by_side in sorted(found.items())
    )


def cell_text(sight: TapSight | None) -> str:
    """`→64 ←63`: request and reply with their TTL, a dot for what was not seen; empty where there is no such tap."""
    if sight is None:
        return ""
    return f"{_direction('→', sight.request)} {_direction('←', sight.reply)}"


def _matrix(key: tuple[str, str, str], a: SideSignature | None, b: SideSignature | None) -> SignatureMatrix:
    of_a, of_b = _by_role(a), _by_role(b)
    rows = tuple(
        MatrixRow(role=role, a=of_a.get(role), b=of_b.get(role)) for role in Role if role in of_a or role in of_b
    )
    placement, client, server = key
    return SignatureMatrix(placement=placement, client=client, server=server, a=a, b=b, rows=rows)


def _by_role(seen: SideSignature | None) -> Mapping[Role, TapSight]:
    return {} if seen is None else {sight.role: sight for sight in seen.signature.taps}


def _direction(arrow: str, seen: Seen | None) -> str:
    return "·" if seen is None else f"{arrow}{seen.ttl}"
