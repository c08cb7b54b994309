#!/usr/bin/env bash
# roots.sh CACHE: the two Debian file systems of the rig, by debootstrap, once: CACHE/node.tar (a machine with systemd
# and sshd) and CACHE/tools.tar (what runs in containers of the cluster). Each about a minute and a half.
set -euo pipefail

cache=$(realpath -m "$1")
mirror=${LABCTL_DEBIAN:-http://deb.debian.org/debian}
node=systemd,systemd-sysv,dbus,containerd,runc,iptables,nftables,iproute2,conntrack,ebtables,ethtool,socat,openssh-server,sudo
node+=,python3,kmod,procps,iputils-ping,tcpdump,util-linux,containernetworking-plugins,libbpf1,bpftool,ca-certificates
tools=iproute2,iputils-ping,iperf3,sockperf,tcpdump,iptables,conntrack,procps,python3,libbpf1,bpftool,etcd-server,kmod
tools+=,netcat-openbsd

# made NAME PACKAGES: CACHE/NAME.tar, unless it is there and was made from the same packages.
made() {
    local archive="$cache/$1.tar" root="$cache/$1.root"
    [[ -f "$archive" && $(cat "$archive.made" 2>/dev/null) == "$2" ]] && return
    rm -f "$archive"
    if [[ $(cat "$root.made" 2>/dev/null) != "$2" ]]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include="$2" bookworm "$root" "$mirror"
        echo "$2" > "$root.made"
    fi
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
    "trim_$1" "$root"
    tar --create --file "$archive.new" --directory "$root" --numeric-owner --one-file-system --exclude='./dev/*' .
    mv "$archive.new" "$archive"
    echo "$2" > "$archive.made"
    rm -rf "$root" "$root.made"
}

# Without CAP_SYS_RESOURCE no service can raise a limit or lower its score for the OOM killer.
trim_node() {
    local root=$1 unit
    find "$root/lib/systemd/system" -name '*.service' -type f -exec sed -i -e '/^Limit/d' -e '/^OOMScoreAdjust/d' {} +
    for unit in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-resolved.service \
        systemd-networkd.service systemd-timesyncd.service systemd-logind.service getty.target console-getty.service \
        apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer \
        sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount systemd-modules-load.service proc-sys-fs-binfmt_misc.automount; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    rm -f "$root"/etc/ssh/ssh_host_*
    : > "$root/etc/machine-id"
    chroot "$root" systemctl enable ssh.service containerd.service
    chroot "$root" systemctl set-default multi-user.target
}

trim_tools() { :; }

mkdir -p "$cache"
made node "$node"
made tools "$tools"
