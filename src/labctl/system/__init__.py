"""The only doors to the machine: processes, netlink, namespaces, files, clock, signals."""
