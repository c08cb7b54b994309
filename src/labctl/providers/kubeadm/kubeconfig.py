"""The kubeconfig that a machine hands over, read as a machine's word: kubectl runs programs that such a file names
(`exec`, `auth-provider`), reads the files that it names, and goes by its proxy. Nothing of that is taken over. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import yaml

MOST_BYTE = 256 * 1024
_SERVER = re.compile(r"https://[A-Za-z0-9.\[\]:-]{1,255}")


def plain_kubeconfig(content: bytes) -> str:
    """The same cluster and user in a file of labctl's own: a server, an authority, a certificate and its key, and no
    other key. Raises ValueError when they are not there as kubeadm writes them."""
    if len(content) > MOST_BYTE:
        raise ValueError(f"it has {len(content)} bytes")
    try:
        said = yaml.safe_load(content)
        (cluster,), (user,) = (part["cluster"] for part in said["clusters"]), (part["user"] for part in said["users"])
        server = cluster["server"]
        if not isinstance(server, str) or not _SERVER.fullmatch(server):
            raise ValueError("its server is not an https address")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "kubernetes",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _data(cluster, "certificate-authority-data"),
                    },
                }
            ],
            "users": [
                {
                    "name": "kubernetes-admin",
                    "user": {key: _data(user, key) for key in ("client-certificate-data", "client-key-data")},
                }
            ],
            "contexts": [
                {
                    "name": "kubernetes-admin@kubernetes",
                    "context": {"cluster": "kubernetes", "user": "kubernetes-admin"},
                }
            ],
            "current-context": "kubernetes-admin@kubernetes",
        }
    except (KeyError, TypeError, AttributeError, yaml.YAMLError, RecursionError) as wrong:
        raise ValueError("it is not as kubeadm writes it") from wrong
    return yaml.safe_dump(document, sort_keys=False)


def _data(part: Mapping[str, Any], key: str) -> str:
    value = part[key]
    if not isinstance(value, str):
        raise TypeError(value)
    base64.b64decode(value, validate=True)
    return value
