#!/bin/sh
# Says which images the kubelet would not find: one line "missing IMAGE" each.
#   images.sh SOCKET KUBERNETES MIRROR IMAGE...
# With a version of Kubernetes also those that kubeadm lists for it, from MIRROR where one is given.
set -u
socket=$1 kubernetes=$2 mirror=$3
shift 3
list() { ctr --address "$socket" --namespace "$1" images list -q 2>/dev/null; }
have=$(list k8s.io) || exit 1
if [ -n "$kubernetes" ]; then
    # kube-proxy is named where the cluster has one, and the sandbox image is a matter of the runtime.
    # shellcheck disable=SC2046  # one word for each image
    set -- "$@" $(kubeadm config images list --kubernetes-version "$kubernetes" ${mirror:+--image-repository "$mirror"} 2>/dev/null |
        grep -v -e /kube-proxy: -e /pause:)
fi
for image; do
    case $have in *"$image"*) continue ;; esac
    where=
    for namespace in $(ctr --address "$socket" namespaces list -q 2>/dev/null); do
        case $(list "$namespace") in *"$image"*) where=" (it is in the namespace $namespace, the kubelet looks in k8s.io)" ;; esac
    done
    echo "missing $image$where"
done
