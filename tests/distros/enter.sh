#!/bin/sh
# Makes ROOT the root file system of this mount namespace, with what a container has mounted, and runs COMMAND there.
#
#   unshare --mount --pid --uts --cgroup --fork --kill-child enter.sh ROOT HOSTNAME COMMAND…
#
# It has to be the first process of a PID namespace in a mount namespace of its own: when it ends, the kernel ends
# every process and takes away every mount that there was, whatever happened inside.
set -eu

root=$1
name=$2
shift 2

[ $$ = 1 ] || {
  echo "error: enter.sh has to be the first process of a PID namespace (it is process $$)" >&2
  exit 3
}

# pivot_root wants a mount point. sudo has to work inside, also where the cache folder is mounted nosuid.
mount --bind "$root" "$root"
mount -o remount,bind,suid,dev,exec "$root"
cd "$root"

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf sys/fs/bpf # an instance of its own: the host's pins are not in it
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run

mount -t tmpfs -o nosuid,mode=755 tmpfs dev
for device in null zero full random urandom tty net/tun; do
  [ -e "/dev/$device" ] || continue
  mkdir -p "dev/$(dirname "$device")"
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "dev/${stream#*:}"; done

echo "$name" >/proc/sys/kernel/hostname

mkdir -p .host
pivot_root . .host
cd /
umount -l /.host
rmdir /.host

exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" "$@"
