#!/bin/sh
# Removes what kubeadm reset leaves of Cilium and of the kubelet: devices, rules, routes, pins, mounts.
# $1 is the pod range, the only one in which routes are removed. Prints one line for everything removed.
set -u
pod_range=${1:?pod range}

for device in cilium_vxlan cilium_geneve cilium_host cilium_net cilium_ipip4 cilium_wg0; do
    if [ -e "/sys/class/net/$device" ] && ip link delete "$device" 2>/dev/null; then echo "removed device $device"; fi
done
for path in /sys/class/net/lxc*; do
    device=${path##*/}
    # Only those that carry Cilium's names: lxc and hexadecimal digits, or the health endpoint.
    case $device in
    lxc_health) ;;
    lxc*[!0-9a-f]*) continue ;;
    esac
    if [ -e "$path" ] && ip link delete "$device" 2>/dev/null; then echo "removed device $device"; fi
done
# What the kernel says of a route's state is no part of the route, and `ip route delete` does not take it.
ip -4 route show root "$pod_range" 2>/dev/null |
    sed -E ':a; s/ (linkdown|dead|unresolved|offload|offload_failed|trap|rt_trap|notify|pervasive)( |$)/ /; ta' |
    while read -r destination rest; do
        # shellcheck disable=SC2086  # the rest of a route is several words
        if ip -4 route delete $destination $rest 2>/dev/null; then echo "removed route $destination"; fi
    done
for table in 2004 2005; do
    while ip -4 rule show 2>/dev/null | grep -q "lookup $table"; do
        ip -4 rule delete table "$table" 2>/dev/null || break
        echo "removed rule for table $table"
    done
    if [ -n "$(ip -4 route show table "$table" 2>/dev/null)" ]; then
        ip -4 route flush table "$table" 2>/dev/null && echo "removed table $table"
    fi
done
# Cilium moves the rule for the table "local" from preference 0 to 100.
if ip -4 rule show 2>/dev/null | grep -q '^100:.*lookup local' && ! ip -4 rule show | grep -q '^0:'; then
    ip -4 rule add preference 0 table local && ip -4 rule delete preference 100 table local && echo "put back rule 0"
fi
# Of what a table has: the rules that lead to Cilium's or the kubelet's chains, then these chains. Everything else stays as
# it stands, with its order and its counters.
without_ours() {
    awk '/^\*/ { table = $0; chains = rules = 0; next }
        /^:(CILIUM_|KUBE-)/ { chain[chains++] = substr($1, 2); next }
        /^-A (CILIUM_|KUBE-)/ { next }
        /^-A .*(CILIUM_|KUBE-)/ { sub(/^-A/, "-D"); rule[rules++] = $0; next }
        /^COMMIT/ && (chains || rules) {
            print table
            for (i = 0; i < rules; i++) print rule[i]
            for (i = 0; i < chains; i++) print "-F " chain[i]
            for (i = 0; i < chains; i++) print "-X " chain[i]
            print
        }'
}
for variant in legacy nft; do
    for family in iptables ip6tables; do
        save=$family-$variant-save restore=$family-$variant-restore
        command -v "$save" >/dev/null 2>&1 || continue
        # Asking the legacy tables would make them exist where they do not. The kernel says that this file has size 0.
        if [ "$variant" = legacy ] && [ -z "$(cat "/proc/net/$(echo $family | sed s/tables/_tables_names/)" 2>/dev/null)" ]; then
            continue
        fi
        "$save" 2>/dev/null | grep -qE 'CILIUM_|KUBE-' || continue
        "$save" 2>/dev/null | without_ours | "$restore" --noflush &&
            echo "removed Cilium's and the kubelet's $family rules ($variant)"
        if [ "$variant" = legacy ] || ! command -v nft >/dev/null 2>&1; then continue; fi
        # iptables-nft makes tables and hooks for the first rule in them: those that are empty now go with it.
        case $family in iptables) ip=ip ;; *) ip=ip6 ;; esac
        for table in filter nat mangle raw security; do
            for chain in PREROUTING INPUT FORWARD OUTPUT POSTROUTING; do
                nft list chain "$ip" "$table" "$chain" 2>/dev/null |
                    awk '/policy accept;$/ { hooks++ } END { exit !(hooks && NR == 5) }' &&
                    nft delete chain "$ip" "$table" "$chain" 2>/dev/null
            done
            nft list table "$ip" "$table" 2>/dev/null | grep -q '	' || nft delete table "$ip" "$table" 2>/dev/null
        done
    done
done
if command -v ipset >/dev/null 2>&1; then
    ipset list -name 2>/dev/null | grep '^cilium_' | while read -r set; do
        ipset destroy "$set" 2>/dev/null && echo "removed ipset $set"
    done
fi
for pins in /sys/fs/bpf/cilium /sys/fs/bpf/tc/globals/cilium_*; do
    if [ -e "$pins" ]; then rm -rf "$pins" && echo "removed $pins"; fi
done
if [ -d /sys/fs/bpf/tc/globals ] && [ -z "$(ls -A /sys/fs/bpf/tc/globals)" ]; then
    # The other links that tc makes beside it go with it, if nothing else is in there.
    rmdir /sys/fs/bpf/tc/globals 2>/dev/null
    rm -f /sys/fs/bpf/ip /sys/fs/bpf/xdp 2>/dev/null
    rmdir /sys/fs/bpf/tc 2>/dev/null
fi
# What is mounted at the kubelet's directory itself, machine.py knows. A disk that is mounted below it is in fstab.
awk '$2 ~ "^/(var/)?run/cilium/" || $2 ~ "^/var/lib/kubelet/" {print $2}' /proc/self/mounts | sort -r |
    while read -r mount; do
        awk -v m="$mount" '$2 == m {found = 1} END {exit !found}' /etc/fstab 2>/dev/null && continue
        umount -l "$mount" && echo "unmounted $mount"
    done
for file in /etc/cni/net.d/05-cilium.conf* /opt/cni/bin/cilium-cni /etc/sysctl.d/99-zzz-override_cilium.conf \
    /etc/cni/net.d/*.cilium_bak; do
    [ -e "$file" ] || continue
    case $file in
    *.cilium_bak) mv "$file" "${file%.cilium_bak}" && echo "put back ${file%.cilium_bak}" ;;
    *) rm -f "$file" && echo "removed $file" ;;
    esac
done
for directory in /var/run/cilium /var/lib/cilium; do
    if [ -d "$directory" ]; then rm -rf "$directory" && echo "removed $directory"; fi
done
exit 0
