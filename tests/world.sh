#!/usr/bin/env bash
# world.sh PYTHON ARGUMENT…: Python for one of several pytest processes that build labs at the same time. It has a host
# of its own, so that none sees the labs, links, rules and processes of the others: network, processes, mounts and names
# are its own; the clock, eBPF's ids, the cgroup tree and the disk are everybody's.
#
#   pytest --dist loadscope --tx '2*popen//python=tests/world.sh .venv/bin/python' tests/integration
set -euo pipefail
if [ "${1-}" != --inside ]; then
  exec unshare --mount --net --ipc --uts --pid --fork --kill-child --mount-proc -- "$0" --inside "$@"
fi
shift
cgroups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$cgroups"
umount --recursive --lazy /sys # what is mounted over would still count as seen, to who may not see it
mount -t sysfs sysfs /sys
mount --rbind "$cgroups" /sys/fs/cgroup
umount --recursive --lazy "$cgroups"
rmdir "$cgroups"
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
ip link set lo up
ip link add eth0 type veth peer name wire # every host has a device that no namespace in it has
"$@" # not exec: this shell is the first process, and collects those that lost their parent
