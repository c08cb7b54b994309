"""Secrets in texts of every form that a lab's tools and records have; and what explains things, which stays.

No secret here is one: keys and tokens were made for these tests, or have only their form.
"""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.engine.redact import Redactor

BODY = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDVnN7" + "AbCdEfGh" for _ in range(4))
KINDS = ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ")


def pem(kind: str = "", body: str = BODY) -> str:
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----\n"


CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{BODY.replace('MIIEvQ', 'MIIDxz')}\n-----END CERTIFICATE-----\n"


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def wrapped_base64(text: str) -> str:
    whole = packed(text)
    return "\n    ".join(whole[begin : begin + 64] for begin in range(0, len(whole), 64))


KUBECONFIG = f"""apiVersion: v1
kind: Config
clusters:
- name: c
  cluster:
    server: https://10.0.0.1:6443
    certificate-authority-data: {packed(CERTIFICATE)}
users:
- name: u
  user:
    client-certificate-data: {packed(CERTIFICATE)}
    client-key-data: {packed(pem("RSA "))}
    token: 0123456789s3cr3t
    password: correct horse battery
"""
SECRETS: dict[str, tuple[str, str]] = {
    **{f"PEM {kind or 'plain'}": (f"before\n{pem(kind)}after", BODY[:30]) for kind in KINDS},
    "PGP": (f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{BODY}\n-----END PGP PRIVATE KEY BLOCK-----", BODY[:30]),
    "PEM indented in YAML": ("key: |\n  " + pem("RSA ").replace("\n", "\n  "), BODY[:30]),
    "PEM escaped in JSON": (json.dumps({"x": pem("EC ")}), BODY[:30]),
    "PEM escaped twice": (json.dumps(json.dumps({"x": pem("EC ")})), BODY[:30]),
    "PEM without its end": (f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}", BODY[:30]),
    "PEM with headers": (
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{BODY}\n-----END RSA PRIVATE KEY-----", BODY[:30],
    ),
    "PEM in base64": (f"  some-data: {packed(pem('RSA '))}\n", packed(pem("RSA "))[40:80]),
    "PEM in base64 of several lines": (f"tls.x: |\n    {wrapped_base64(pem())}\n", wrapped_base64(pem())[70:120]),
    "a certificate and its key in base64": (f"x: {packed(CERTIFICATE + pem())}", packed(CERTIFICATE + pem())[-60:-20]),
    "bearer": ("curl -H 'Authorization: Bearer s3cr3t-value_1.2~3+4/5=' https://x", "s3cr3t-value"),
    "bearer in a log": ('msg="request" header="bearer kubeconfig-s3cr3tvalue"', "s3cr3tvalue"),
    "basic": ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    "basic in JSON": ('{"Authorization": "Basic dXNlcjpwYXNz"}', "dXNlcjpwYXNz"),
    "JSON web token": (
        "found eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl-x here", "eyJhbGciOiJSUzI1Ni",
    ),
    "kubeadm's token": ("kubeadm join 10.0.0.1:6443 --token abcdef.0123456789abcdef", "0123456789abcdef"),
    "kubeadm's token in JSON": ('{"t":"abcdef.0123456789abcdef"}', "0123456789abcdef"),
    "kubeadm's hash": ("--discovery-token-ca-cert-hash sha256:5eec7e7ab", "5eec7e7ab"),
    "kubeadm's certificate key": ("--certificate-key 0f0e0d0c0b0a", "0f0e0d0c0b0a"),
    "password in YAML": ("password: hunter2\nnext: 1\n", "hunter2"),
    "password with blanks in YAML": ("  password: correct horse battery\nnext: 1\n", "battery"),
    "password in quotes": ('password: "correct \\"horse\\" battery"\n', "battery"),
    "password in JSON": ('{"adminPassword":"hunter2","next":1}', "hunter2"),
    "password in JSON in JSON": (json.dumps({"said": json.dumps({"password": "hunter2"})}), "hunter2"),
    "password in TOML": ('[x.auth]\n  password = "hunter2"\n', "hunter2"),
    "auth of docker": ('{"auths":{"r.io":{"auth":"dXNlcjpwYXNz"}}}', "dXNlcjpwYXNz"),
    "auth of containerd": ('      identitytoken = "s3cr3tvalue"\n', "s3cr3tvalue"),
    "in the environment": ("PATH=/bin\nREGISTRY_PASSWORD=hunter2 extra\nHOME=/root\n", "extra"),
    "among other words": ("run with DB_PASSWORD=hunter2 and go", "hunter2"),
    "as an option": ("helm registry login --username u --password hunter2 r.io", "hunter2"),
    "as an option with =": ("etcd --peer-secret=hunter2", "hunter2"),
    "in camel case": ('{"registryAuth": "s3cr3tvalue", "x": {"dbPass":"hunter2"}}', "hunter2"),
    "in a query": ("GET /x?user=a&access_token=s3cr3tvalue&b=1", "s3cr3tvalue"),
    "in a URL": ("https://user:hunter2@registry.example/v2", "hunter2"),
    "in a URL of a proxy": ("HTTPS_PROXY=http://me:hunter2@proxy:3128", "hunter2"),
    "a block under a key": ("client-secret: |\n  line-one-of-it\n  line-two-of-it\nnext: 1\n", "line-two-of-it"),
    "a list's key": ("- secret: hunter2\n- name: x\n", "hunter2"),
    "Secret in YAML": ("apiVersion: v1\nkind: Secret\ndata:\n  a: aGVsbG8gd29ybGQ=\n  b: eA==\ntype: x\n", "aGVsbG8"),
    "Secret among documents": (
        "kind: Pod\n---\nkind: Secret\nstringData:\n  a: hello-world\n---\nkind: X\n", "hello-world",
    ),
    "Secret in JSON": ('{"kind":"Secret","data":{"a":"aGVsbG8gd29ybGQ="}}', "aGVsbG8"),
    "Secret in JSON of many lines": (
        json.dumps({"kind": "Secret", "data": {"a": "aGVsbG8gd29ybGQ="}}, indent=2), "aGVsbG8",
    ),
    "kubeconfig: key": (KUBECONFIG, packed(pem("RSA "))[:60]),
    "kubeconfig: token": (KUBECONFIG, "0123456789s3cr3t"),
    "kubeconfig: password": (KUBECONFIG, "battery"),
    "GitHub": ("ghp_" + "a1B2" * 9, "a1B2a1B2"),
    "AWS": ("AKIA" + "ABCDEFGH12345678", "ABCDEFGH12345678"),
    "aws secret": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
}  # fmt: skip


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_taken_out_whatever_it_stands_in(case: str) -> None:
    text, secret = SECRETS[case]
    assert secret in text, "the test itself"
    found = Redactor().redacted(text)
    assert secret not in found.text
    assert "[removed: " in found.text
    assert found.removed >= 1


@pytest.mark.parametrize("case", SECRETS)
def test_what_was_taken_out_is_not_taken_out_again(case: str) -> None:
    once = Redactor().redacted(SECRETS[case][0])
    twice = Redactor().redacted(once.text)
    assert (twice.text, twice.removed) == (once.text, 0)


STAYS = (
    CERTIFICATE,
    f"certificate-authority-data: {packed(CERTIFICATE)}",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@host",
    "127.0.0.1 ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ",
    "sudoPasswordFile: ~/.config/labctl/password",
    "  - secretName: cilium-ca\n    tokenExpirationSeconds: 3600\n",
    "automountServiceAccountToken: false\n",
    "kube-system  cilium-token-x4k2p  kubernetes.io/service-account-token  3",
    'Volumes: kube-api-access-x (projected)\nTokenExpirationSeconds: 3607\n',
    "10.244.0.53 dev cilium_host proto kernel scope link src 10.244.0.53",
    "Nov 29 22:13:22 node1 kubelet[812]: pod sandbox 0123456789abcdef0123456789abcdef created",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "lxc0123456789ab: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 link/ether 0e:6e:65:46:42:cf",
    "identity: 12345\nallow-localhost: auto\nauthoritative: yes\nauthor: me\n",
    'level=error msg="Unable to fetch key: no such host" subsys=kvstore',
    "password: null\nsecret: \"\"\ntoken: <none>\nenable-bearer-token: false\n",
    "-A CILIUM_FORWARD -o cilium_host -m comment --comment \"cilium: any->cluster\" -j ACCEPT",
    "basic configuration of the negotiate option",
    '"mitigation.spec_store_bypass": "Mitigation: Speculative Store Bypass disabled via prctl"',
    "compass: north\nunauth: 3\n",
)  # fmt: skip


@pytest.mark.parametrize("text", STAYS)
def test_what_is_public_and_explains_things_stays(text: str) -> None:
    assert Redactor().redacted(text).text == text


@pytest.mark.parametrize("secret", ["right-horse", 'with "quotes" \\ and $', "pässwörd-ß"])
def test_a_known_secret_is_found_wherever_it_stands(secret: str) -> None:
    redactor = Redactor([secret])
    for text in (
        f"it was {secret}, they said",
        json.dumps({"x": secret}, ensure_ascii=False),
        f"GET /?x={quote(secret, safe='')}",
        *(f"x: {packed('a' * shift + secret + 'tail')}" for shift in range(3)),
    ):
        found = redactor.redacted(text)
        assert "[removed: a known secret]" in found.text, text
        assert secret not in found.text


def test_a_known_secret_of_a_letter_takes_no_words_apart() -> None:
    assert Redactor(["a", ""]).redacted("a banana").text == "a banana"


@given(st.text(max_size=300))
def test_any_text_can_be_asked(text: str) -> None:
    found = Redactor(["hunter2hunter2"]).redacted(f"{text}\npassword: hunter2hunter2\n")
    assert "hunter2hunter2" not in found.text


def test_a_large_text_without_an_end_takes_no_time() -> None:
    """Forms that look at the same text over and over would take minutes."""
    begun_s = time.monotonic()
    for text in (
        "a-" * 200_000,
        "A" * 500_000,
        "-----BEGIN RSA PRIVATE KEY-----" * 2_000,
        "key" * 100_000,
        "=:" * 200_000,
    ):
        Redactor().redacted(text)
    assert time.monotonic() - begun_s < 60
