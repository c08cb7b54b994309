"""Identities depend on labels alone, and are never the same for two sets of labels."""

from __future__ import annotations

import pytest

from labctl.planning.resolve import FIRST_IDENTITY, LAST_IDENTITY, identities, label_key


def test_equal_labels_have_one_identity_whatever_their_order() -> None:
    found = identities([{"app": "web", "tier": "front"}, {"tier": "front", "app": "web"}])
    assert len(found) == 1


def test_an_identity_is_the_same_in_every_lab() -> None:
    alone = identities([{"app": "client"}])
    among = identities([{"app": "server"}, {"app": "client"}, {"app": "neighbour"}])
    key = label_key({"app": "client"})
    assert alone[key] == among[key] == 51130


def test_ten_thousand_sets_of_labels_have_ten_thousand_identities_within_the_range() -> None:
    found = identities({"app": f"pod{number}"} for number in range(10_000))
    assert len(set(found.values())) == 10_000
    assert min(found.values()) >= FIRST_IDENTITY
    assert max(found.values()) <= LAST_IDENTITY


def test_identities_do_not_depend_on_the_order_of_pods_even_where_numbers_collide() -> None:
    labels = [{"app": f"pod{number}"} for number in range(5_000)]
    assert identities(labels) == identities(reversed(labels))


def test_every_identity_can_be_given_out_and_not_one_more() -> None:
    room = LAST_IDENTITY - FIRST_IDENTITY + 1
    with pytest.raises(ValueError, match="65281 different sets of labels, but only 65280 identities"):
        identities({"n": str(number)} for number in range(room + 1))
