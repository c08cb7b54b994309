#!/bin/busybox sh
# shellcheck shell=dash
# The initrd's first process: this host's root, read only over 9p, with a writable layer in memory above it; the modules
# of the booted kernel in their place; then start.sh of the folder that is shared for the results.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /layer /new
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r module; do
  $b insmod "/modules/$module" || $b echo "CANNOT LOAD $module"
done </modules/list

over9p() { # TAG PLACE OPTIONS
  $b mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288$3" "$1" "$2" || $b echo "CANNOT MOUNT $1"
}

over9p host /host ,cache=loose,ro
$b mount -t tmpfs -o size=80% layer /layer
$b mkdir /layer/up /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/up,workdir=/layer/work,xino=off root /new || $b echo "CANNOT OVERLAY"
for place in proc sys dev run out; do $b mkdir -p "/new/$place"; done
$b mount -t proc proc /new/proc
$b mount -t sysfs sysfs /new/sys
$b mount -t devtmpfs dev /new/dev
$b mount -t tmpfs -o mode=755 run /new/run
over9p out /new/out ''
$b mkdir -p /new/usr/lib/modules
$b mount --bind "/host$($b cat /new/out/modules)" /new/usr/lib/modules || $b echo "CANNOT BIND THE MODULES"
exec $b switch_root /new /bin/bash /out/start.sh
