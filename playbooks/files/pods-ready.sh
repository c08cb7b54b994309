# Waits until every pod of NAMESPACE is ready, at most WAIT_S seconds. A pod that has ended does not come back by itself
# (nothing controls these pods): that is said at once, with the kubelet's reason, and not after the whole time.
kubectl="kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace=$NAMESPACE"
until_s=$(($(date +%s) + WAIT_S))
until said=$($kubectl wait --for condition=Ready pods --all --timeout=5s 2>&1); do
    ended=$($kubectl get pods --field-selector=status.phase=Failed --output \
        'jsonpath={range .items[*]}{.metadata.name} on {.spec.nodeName}: {.status.reason} {.status.message}{"; "}{end}')
    if [ -n "$ended" ]; then
        echo "labctl: pods have ended: ${ended%; }" >&2
        exit 1
    fi
    if [ "$(date +%s)" -ge "$until_s" ]; then
        echo "$said" >&2
        exit 1
    fi
    sleep 1
done
