"""Takes secrets out of texts of any form before they leave the host: keys, tokens, passwords, kubeconfigs. Pure.

What is known to be secret (a password of sudo, the key of a kubeconfig) is found wherever it stands, also in base64.
What only looks like one is found by its form: PEM blocks of private keys, plain, escaped in JSON and in base64; bearer
tokens, JSON web tokens, kubeadm's tokens, tokens of registries and clouds; values under keys such as `password` in
YAML, JSON, TOML, on command lines and in environments; passwords in URLs; the data of Kubernetes Secrets. What is
public stays, since it explains things: certificates, public keys, host keys, names of Secrets, paths of files.

In place of a secret stands `[removed: what it was]`. When in doubt, it goes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from labctl.values import dataclass

SHORTEST_KNOWN = 4
"""Characters of a known secret that is looked for as such: shorter ones would take words apart."""
_PEM = re.compile(
    r"-----BEGIN (?P<what>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----"
    # To its end; where that is missing, as long as it goes on like one.
    r"(?:(?:(?!-----).)*?-----END (?P=what)-----|(?:\\[nr]|[A-Za-z0-9+/=\s:,-])*)",
    re.DOTALL,
)
_PEM_IN_BASE64 = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]{8,}(?:\n[ \t]*[A-Za-z0-9+/=]{40,})*")
"""`-----BEGIN ` in base64, in one line or in lines of their own."""
_MARK = re.compile(r"\[removed: [^\]]*\]")
_TOKENS = (
    ("token", re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}")),  # JSON web token
    ("token", re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.?(?=$|\s)")),  # …cut off
    ("token of kubeadm", re.compile(r"(?<![\w.-])[a-z0-9]{6}\.[a-z0-9]{16}(?![\w.-])")),
    ("token", re.compile(r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}")),
    ("token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}|\bdckr_pat_[\w-]{20,}|\bnpm_[A-Za-z0-9]{30,}")),
    ("key of a cloud", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}")),
)
_SCHEME = re.compile(
    r"(?i)(?P<head>\bbearer(?:[ \t]+|%20)|authorization[\"']?\s*[:=]\s*[\"']?(?:basic|digest|negotiate|token)[ \t]+)"
    r"(?P<value>[A-Za-z0-9._~+/=-]{6,})"
)
_URL = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@\"'<>]{0,200}:)(?P<value>[^\s/@\"'<>]+)@")
_WORDS = (
    r"pass(?:word|wd|phrase|code)|secret|token|credentials?|authorization|api[_-]?key|access[_-]?key|secret[_-]?key|"
    r"private[_-]?key|client[_-]?key|signing[_-]?key|encryption[_-]?key|certificate[_-]?key|session[_-]?key|tls\.key|"
    r"ca\.key|ssh[_-]?key|discovery[_-]token[_-]ca[_-]cert[_-]hash|kubeconfig[_-]data"
)
_SHORT_WORDS = "auth|pass|pwd|psk|cookie"
"""These are one only by themselves: a bypass is none."""
_KEY = (
    rf"(?<![A-Za-z0-9])(?:[A-Za-z0-9]{{1,40}}[_.-]){{0,6}}(?:[A-Za-z0-9]{{0,40}}?"
    rf"(?:(?i:{_WORDS})|(?<![A-Za-z0-9])(?i:{_SHORT_WORDS})|(?<=[a-z0-9])(?:Auth|Pass|Pwd|Psk|Cookie)))"
    r"(?:[_-]?(?i:data|value|base64|b64))?"
)
"""A key that ends in such a word. One that goes on (`secretName`, `tokenTTL`, `passwordFile`) names something else."""
_IN_QUOTES = r"\\?\"(?:[^\"\\]|\\.)*\\?\"|'[^']*'"
_LINE = re.compile(
    rf"^(?P<head>[ \t]*(?:- |export )?(?:{_KEY})(?:[ \t]*:[ \t]+|=))(?P<value>[^\s|>{{\[\"'&*!][^\n]*)$", re.MULTILINE
)
"""The key begins the line, so that the value is all the rest of it, blanks too."""
_QUOTED = re.compile(
    rf"(?P<head>(?P<quote>\\?[\"'])(?:{_KEY})(?P=quote)\s*[:=]\s*)(?P<value>{_IN_QUOTES}|[^\s,}}\]\"'{{\[][^\s,}}\]\"']*)"
)
_PLAIN = re.compile(
    rf"(?P<head>(?:^|[\s,;{{(&?\[\"']|--?)(?:{_KEY})[ \t]*[:=][ \t]*)"
    rf"(?P<value>{_IN_QUOTES}|[^\s,;&}}\]\"'{{\[][^\s,;&}}\]\"']*)",
    re.MULTILINE,
)
_OPTION = re.compile(
    rf"(?P<head>(?:^|[\s\"'])--(?:{_KEY})[ \t]+)(?P<value>\"[^\"]*\"|'[^']*'|[^\s\"'\[-][^\s\"']*)", re.MULTILINE
)
_BLOCK = re.compile(
    rf"^(?P<head>(?P<indent>[ \t]*)(?:- )?[\"']?(?:{_KEY})[\"']?:[ \t]*[|>][+-]?[0-9]?[ \t]*\n)"
    r"(?P<value>(?:(?P=indent)[ \t]+.*(?:\n|$))+)",
    re.MULTILINE,
)
"""A value in the lines below its key, as YAML has it."""
_HARMLESS = re.compile(
    r"(?i)[\"']?(?:true|false|null|none|nil|~|no|yes|optional|required|enabled|disabled|<none>|\*+|-?[0-9]{1,5}[smhd]?)?[\"']?,?"
)
"""What a key with such a name may well say without a secret in it."""
_SECRET_KIND = re.compile(r"[\"']?\bkind[\"']?:[ \t]*[\"']?Secret(?:List)?\b[\"']?")
_SECRET_DATA = (
    re.compile(
        r"^(?P<head>(?P<indent>[ \t]*)(?:data|stringData):[ \t]*\n(?P=indent)[ \t]+)"
        r"(?P<value>.*(?:\n|$)(?:(?P=indent)[ \t]+.*(?:\n|$))*)",
        re.MULTILINE,
    ),
    re.compile(r"(?P<head>[\"'](?:data|stringData)[\"']\s*:\s*)(?P<value>\{[^{}]*\})"),
)
"""In YAML, and in JSON of one line or many."""
_DOCUMENT = re.compile(r"^(---[ \t]*(?:#.*)?)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """A text without secrets, and how many were taken out."""

    text: str
    removed: int


class Redactor:
    """Takes secrets out. `known` are those that are known to be some, each as it is written."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(sorted(_spellings(known), key=len, reverse=True))

    def redacted(self, text: str) -> Redacted:
        """Safe to call on what it returned: nothing more is taken out then."""
        count = 0

        def taken(what: str) -> str:
            nonlocal count
            count += 1
            return f"[removed: {what}]"

        for secret in self._known:
            if secret in text:
                pieces = text.split(secret)
                count += len(pieces) - 1
                text = "[removed: a known secret]".join(pieces)
        text = _PEM.sub(lambda found: taken(found["what"].lower()), text)
        text = _PEM_IN_BASE64.sub(lambda found: _of_base64(found[0], taken), text)
        if _SECRET_KIND.search(text):
            parts = _DOCUMENT.split(text)
            text = "".join(_without_data(part, taken) if _SECRET_KIND.search(part) else part for part in parts)
        text = _SCHEME.sub(lambda found: found["head"] + _value(found["value"], "token", taken), text)
        for what, form in _TOKENS:
            text = form.sub(lambda found, what=what: taken(what), text)  # type: ignore[misc]
        text = _URL.sub(lambda found: f"{found['head']}{_value(found['value'], 'password', taken)}@", text)
        text = _BLOCK.sub(
            lambda found: f"{found['head']}{found['indent']}  {_value(found['value'], 'a value', taken)}\n", text
        )
        for form in (_LINE, _QUOTED, _PLAIN, _OPTION):
            text = form.sub(lambda found: found["head"] + _value(found["value"], "a value", taken), text)
        return Redacted(text=text, removed=count)


def _value(value: str, what: str, taken: Callable[[str], str]) -> str:
    """What stands in place of a value: a mark in the value's own quotes, or the value itself where it is no secret."""
    if _HARMLESS.fullmatch(value) or (_MARK.search(value) and not _MARK.sub("", value).strip(" \t\r\"'\\,;.")):
        return value
    for quotation in ('\\"', '"', "'"):
        if value.startswith(quotation):
            return f"{quotation}{taken(what)}{quotation}"
    return taken(what)


def _of_base64(found: str, taken: Callable[[str], str]) -> str:
    """A certificate stays, a key goes."""
    packed = re.sub(r"\s", "", found)
    try:
        # Several may be in one: a certificate first, then its key.
        is_key = b"PRIVATE KEY" in base64.b64decode(packed[: len(packed) // 4 * 4])
    except (binascii.Error, ValueError):
        is_key = True
    return taken("private key") if is_key else found


def _without_data(document: str, taken: Callable[[str], str]) -> str:
    of_yaml, of_json = _SECRET_DATA

    def in_yaml(found: re.Match[str]) -> str:
        if _MARK.fullmatch(found["value"].strip()):
            return found[0]
        return f"{found['head']}{taken('data of a Secret')}\n"

    document = of_yaml.sub(in_yaml, document)
    return of_json.sub(lambda found: f'{found["head"]}"{taken("data of a Secret")}"', document)


def _spellings(known: Iterable[str]) -> set[str]:
    """Each secret as it is, in base64 (also of what stands after it in one text), in a URL and in JSON."""
    found: set[str] = set()
    for secret in known:
        if len(secret) < SHORTEST_KNOWN:
            continue
        found |= {secret, quote(secret, safe=""), secret.replace("\\", "\\\\").replace('"', '\\"')}
        raw = secret.encode()
        for shift in range(3):
            # Whole groups of three bytes are spelled alike wherever the secret stands in what was packed.
            begin = -shift % 3
            whole = raw[begin : begin + (len(raw) - begin) // 3 * 3]
            packed = base64.b64encode(whole).decode()
            if len(packed) >= 8:
                found.add(packed)
    return {one for one in found if len(one) >= SHORTEST_KNOWN}
