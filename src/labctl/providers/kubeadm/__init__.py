"""Builds labs on real machines: kubeadm and Cilium by Ansible over SSH, everything else over SSH by Fabric."""
