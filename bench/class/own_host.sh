#!/usr/bin/env bash
# own_host.sh ARGUMENT…: a command in a host of its own, for what makes users and settings of the host: its network,
# processes and mounts are its own, and what it writes into /etc, /home, /root, /usr/local and /var is gone with it.
set -euo pipefail
if [ "${1-}" != --inside ]; then
  exec unshare --mount --net --ipc --uts --pid --fork --kill-child --mount-proc -- "$0" --inside "$@"
fi
shift
cgroups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$cgroups"
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount --rbind "$cgroups" /sys/fs/cgroup
umount --recursive --lazy "$cgroups"
rmdir "$cgroups"
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
written=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$written"
for folder in etc home root usr/local var; do
  name=${folder//\//-}
  mkdir -p "$written/$name/upper" "$written/$name/work"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$written/$name/upper,workdir=$written/$name/work" overlay "/$folder"
done
ip link set lo up
status=0
"$@" || status=$?
umount --lazy "$written"
rmdir "$written"
exit "$status"
