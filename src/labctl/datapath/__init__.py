"""labctl's own eBPF datapath: programs in C, the bytes of their maps, and the doors to load and read them.

It has Cilium's hooks, helpers and program names, and what its taps show is compared with a real cluster; it is not
Cilium. What the maps of a lab hold and which devices run the programs is decided by `networks/cilium`.
"""
