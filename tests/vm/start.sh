#!/bin/bash
# The guest's first process after the initrd: the rest of a Linux system's mounts, then the job in /out/argv (one word a
# line), its words into /out/log and its status into /out/status; then the machine is switched off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ln -sf /proc/self/fd /dev/fd
ip link set lo up
hostname guest
echo "UP $(uname -r) after $(cut -d' ' -f1 /proc/uptime) s"
mapfile -t argv </out/argv
cd / || exit
"${argv[@]}" >/out/log 2>&1
echo $? >/out/status
echo "DOWN after $(cut -d' ' -f1 /proc/uptime) s"
sync
echo o >/proc/sysrq-trigger
sleep 60
