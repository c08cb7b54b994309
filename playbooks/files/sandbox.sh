#!/bin/sh
# Says whether the sandbox image that containerd asks for is there: $1 is its socket, $2 the Kubernetes version.
#   asked IMAGE      what it is configured for
#   absent           that image is not there
#   other IMAGE      a sandbox image that is, the one of this Kubernetes first
set -u
have=$(ctr --address "$1" --namespace k8s.io images list -q) || exit 1
asked=$({ cat /etc/containerd/config.toml; containerd config default; } 2>/dev/null |
    sed -n "s/^ *\\(sandbox_image\\|sandbox\\) *= *[\"']\\([^\"']*\\)[\"'].*/\\2/p" | head -n 1)
echo "asked $asked"
printf '%s\n' "$have" | grep -qxF "$asked" && exit 0
echo absent
own=$(kubeadm config images list --kubernetes-version "$2" 2>/dev/null | grep '/pause:')
if [ -n "$own" ]; then printf '%s\n' "$have" | grep -xF "$own" | sed 's/^/other /'; fi
printf '%s\n' "$have" | grep -E '/pause(-[a-z0-9]+)?:[0-9.]+$' | sort -rV | sed 's/^/other /'
exit 0
