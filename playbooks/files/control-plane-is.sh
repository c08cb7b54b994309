# Says how far kubeadm's start of a control plane has come on this machine, by what is there: `begun`, and `whole` when its
# API server answers and has what kubeadm makes last, the Service of the cluster's DNS. $1: seconds that it may take until
# the API server answers.
[ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] || exit 0
echo begun
[ -e /etc/kubernetes/admin.conf ] && [ -e /etc/kubernetes/kubelet.conf ] || exit 0
kubectl="kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=10s"
until_s=$(($(date +%s) + $1))
until $kubectl get --raw /readyz >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$until_s" ] || exit 0
    sleep 1
done
$kubectl --namespace=kube-system get service kube-dns >/dev/null 2>&1 && echo whole
exit 0
