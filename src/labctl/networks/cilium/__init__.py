"""The pod network `cilium`: what a Cilium node has, and what its taps and counters show, in each of its modes. Pure."""
