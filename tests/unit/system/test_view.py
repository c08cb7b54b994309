"""What stands beneath /sys, read from mountinfo as hosts of different kinds have it."""

from __future__ import annotations

from labctl.system.view import Mounted, beneath, parse_mounts, tree

V1 = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 27 254:0 /run/netns /run/netns rw,relatime shared:1 - ext4 /dev/vda rw,discard
43 42 0:4 net:[4026532177] /run/netns/labctl.x.node1 rw shared:2 - nsfs nsfs rw
"""
"""Of the machine on which this was written: cgroup v1 with cgroup2 beside it, nothing shared but /run/netns."""

V2 = """\
24 29 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
30 24 0:7 / /sys/kernel/security rw,nosuid,nodev,noexec,relatime shared:8 - securityfs securityfs rw
32 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
34 24 0:29 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:11 - bpf bpf rw,mode=700
36 24 0:8 / /sys/kernel/debug rw,nosuid,nodev,noexec,relatime shared:16 - debugfs debugfs rw
37 36 0:13 / /sys/kernel/debug/tracing rw,nosuid,nodev,noexec,relatime shared:17 - tracefs tracefs rw
"""
"""A systemd host: cgroup v2 alone, everything shared."""

CONTAINER = """\
612 640 0:90 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
613 612 0:31 /../../.. /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw
700 612 0:95 / /sys/firmware ro,relatime - tmpfs tmpfs ro
"""


def standing_on_sys(text: str) -> tuple[Mounted | None, list[str]]:
    top, above = beneath(parse_mounts(text), "/sys")
    return top, [one.place for one in above]


def test_only_what_stands_directly_on_sys_is_brought_along_the_rest_comes_with_it() -> None:
    assert standing_on_sys(V1)[1] == ["/sys/fs/cgroup"]
    assert standing_on_sys(V2)[1] == ["/sys/kernel/security", "/sys/fs/cgroup", "/sys/fs/bpf", "/sys/kernel/debug"]
    assert standing_on_sys(CONTAINER)[1] == ["/sys/fs/cgroup", "/sys/firmware"]


def test_the_flags_of_sys_are_known_so_that_a_read_only_one_stays_so() -> None:
    top, _ = standing_on_sys(CONTAINER)
    assert top is not None
    assert top.options == ("ro", "nosuid", "nodev", "noexec", "relatime")


def test_of_two_mounts_on_sys_the_later_one_is_seen() -> None:
    later = V2 + "90 24 0:55 / /sys rw,relatime - sysfs sysfs rw\n91 90 0:7 / /sys/fs/pstore rw - pstore pstore rw\n"
    top, above = standing_on_sys(later)
    assert (top.number if top else None, above) == (90, ["/sys/fs/pstore"])


def test_a_host_without_sys_has_nothing_beneath_it() -> None:
    assert standing_on_sys("27 1 254:0 / / rw - ext4 /dev/vda rw\n") == (None, [])


def test_places_with_spaces_backslashes_and_other_letters_are_read_as_they_are() -> None:
    (found,) = parse_mounts("9 8 0:1 / /media/a\\040b\\134c\\011é\u2028\x85 rw - tmpfs none rw\n")
    assert found.place == "/media/a b\\c\té\u2028\x85"


def test_all_that_stands_on_sys_is_found_with_its_kind_and_nothing_else() -> None:
    found = {one.place: one.kind for one in tree(parse_mounts(V2), "/sys")}
    assert found == {
        "/sys": "sysfs",
        "/sys/kernel/security": "securityfs",
        "/sys/fs/cgroup": "cgroup2",
        "/sys/fs/bpf": "bpf",
        "/sys/kernel/debug": "debugfs",
        "/sys/kernel/debug/tracing": "tracefs",
    }
    assert len(tree(parse_mounts(V1), "/sys")) == 4
    assert tree(parse_mounts(V1), "/nowhere") == ()
