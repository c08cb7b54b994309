# Pulls the images that kubeadm lists for /etc/labctl/kubeadm.yaml and the runtime lacks; $1 is the runtime's socket. The
# first that cannot be pulled ends it, with what the registry said: kubeadm itself would try each of them five times.
# kube-proxy is left out of the cluster.
listed=$(kubeadm config images list --config /etc/labctl/kubeadm.yaml) || exit 1
pulled=
for image in $listed; do
    case $image in */kube-proxy:*) continue ;; esac
    if crictl --runtime-endpoint "$1" --image-endpoint "$1" --timeout 60s inspecti -q "$image" >/dev/null 2>&1; then
        continue
    fi
    said=$(crictl --runtime-endpoint "$1" --image-endpoint "$1" --timeout 900s pull "$image" 2>&1) || {
        # One that a second try may bring: the connection was cut.
        case $said in
        *"connection reset"* | *"unexpected EOF"* | *"TLS handshake timeout"*)
            said=$(crictl --runtime-endpoint "$1" --image-endpoint "$1" --timeout 900s pull "$image" 2>&1) && continue ;;
        esac
        echo "labctl: cannot pull $image" >&2
        printf '%s\n' "$said" >&2
        exit 1
    }
    pulled="$pulled $image"
done
[ -z "$pulled" ] || echo "pulled$pulled"
