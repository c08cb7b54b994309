"""Which two CPUs client and server take."""

from __future__ import annotations

import os

import pytest

from labctl.system.cpus import Place, best_pair, cpu_list, cpus_for_pair, packet_threads


def threads(*cores: tuple[int, ...], numa: dict[int, int] | None = None) -> dict[int, Place]:
    return {cpu: Place(core=frozenset(core), numa_node=(numa or {}).get(cpu, 0)) for core in cores for cpu in core}


@pytest.mark.parametrize(
    ("places", "pair"),
    [
        (threads((0,), (1,)), (0, 1)),
        (threads((0,), (1,), (2,), (3,)), (2, 3)),
        (threads((0, 2), (1, 3)), (2, 3)),  # the last two are on two cores
        (threads((0, 1), (2, 3)), (1, 3)),  # the last two share a core
        (threads((0, 1)), (0, 1)),  # there is nothing better
        (threads((0,), (1,), (2,), (3,), numa={0: 0, 1: 0, 2: 0, 3: 1}), (1, 2)),
        (threads((0, 1), (2, 3), numa={0: 0, 1: 0, 2: 1, 3: 1}), (1, 3)),  # two cores before one node
    ],
)
def test_two_cores_of_one_numa_node_come_first(places: dict[int, Place], pair: tuple[int, int]) -> None:
    assert best_pair(list(places), places) == pair


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-2,5\n", {0, 1, 2, 5}), ("7", {7}), ("", set()), ("f", set()), ("1-x", set())]
)
def test_the_kernels_lists_are_read(text: str, cpus: set[int]) -> None:
    assert cpu_list(text) == cpus


def test_this_machine_gives_two_cpus_that_may_be_used_or_none() -> None:
    pair = cpus_for_pair()
    usable = os.sched_getaffinity(0)
    assert (pair == (None, None)) is (len(usable) == 1)
    assert {cpu for cpu in pair if cpu is not None} <= usable
    assert len(set(pair)) == (2 if len(usable) > 1 else 1)


def test_one_cpu_that_may_be_used_is_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cpus_for_pair() == (None, None)


def test_each_cpu_has_at_most_one_thread_for_packets() -> None:
    assert len(packet_threads((0,))) <= 1
    assert packet_threads(()) == ()
