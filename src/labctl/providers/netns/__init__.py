"""The provider that builds labs from network namespaces on this host."""
