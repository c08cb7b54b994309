#!/bin/sh
# Ends the pods' sandboxes of this machine, and what a sandbox that did not end well leaves in the kernel.
#   sandboxes.sh SOCKET networked   those with a network of their own, while the CNI plugin can still take it down
#   sandboxes.sh SOCKET all         all of them, then the network namespaces that belong to none
# Prints one line for everything ended. crictl gives up after 2 s by itself, and a busy containerd takes longer.
set -u
socket=$1 which=$2
command -v crictl >/dev/null 2>&1 || exit 0
runtime() { crictl --runtime-endpoint "$socket" --image-endpoint "$socket" --timeout 60s "$@" 2>/dev/null; }
runtime pods --quiet >/dev/null || exit 0
# The kubelet would start them again.
systemctl stop kubelet >/dev/null 2>&1
for pod in $(runtime pods --quiet); do
    if [ "$which" = networked ]; then
        network=$(runtime inspectp --output go-template --template '{{.status.linux.namespaces.options.network}}' "$pod")
        [ "$network" = NODE ] && continue
    fi
    runtime stopp "$pod" >/dev/null
    if runtime rmp "$pod" >/dev/null || runtime rmp --force "$pod" >/dev/null; then echo "ended sandbox $pod"; fi
done
[ "$which" = all ] || exit 0
[ -z "$(runtime pods --quiet)" ] || exit 0
for path in /var/run/netns/cni-*; do
    namespace=${path##*/}
    [ -e "$path" ] && ip netns delete "$namespace" 2>/dev/null && echo "removed namespace $namespace"
done
exit 0
