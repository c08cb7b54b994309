"""Builds labs as kind clusters with real Cilium: docker (or podman, nerdctl), kind, kubectl and helm as they are."""
