"""Services as data: what a lab's nodes have to translate, whoever translates it, and kube-proxy's rules. Pure."""
