"""labctl's own eBPF datapath: programs in C, what their maps hold, and the doors to load and read them.

It has Cilium's hooks, helpers and program names, and what its taps show is held against a real cluster; it is not
Cilium. Devices, routes and tc filters belong to `providers/netns`.
"""
