"""What is measured and judged on a lab: ping, iperf, latency, tcpdump; each sees the provider seam only."""
