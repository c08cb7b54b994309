"""Real Cilium, as the providers `kind` and `kubeadm` share it: its Helm values by version, its status, its witnesses.

Knows Cilium and nothing of how a cluster is made or reached.
"""
