"""Services as data: what the nodes of a lab have to translate, whoever translates it, and kube-proxy's rules for it. Pure."""
