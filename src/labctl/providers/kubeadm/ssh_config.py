"""How a machine is reached, as OpenSSH's own configuration says: asked of `ssh -G`, so that Host, Match, Include and
tokens mean here what they mean to `ssh`. Fabric gets the answer; Ansible's ssh reads the same files itself.

What lab.yaml says comes first, then ~/.ssh/config, then /etc/ssh/ssh_config. Both are those of the user that labctl
runs as (root under sudo, as with `sudo ssh`). Owns no connection.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import shlex
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labctl.errors import HostLacks, StepFailed
from labctl.providers.kubeadm.machines import Machine, in_quotes
from labctl.system import process
from labctl.values import dataclass

_ASK_S = 30.0
"""`Match exec` runs programs."""
_NOBODY = "labctl-was-not-told"
"""The user that a configuration gives at its very end, so that one which names a user shows."""
_BEGINNINGS = re.compile(r" (?=[/~])")
_TOKEN = re.compile(r"%(.)|\$\{(\w+)\}")
_FOLLOWED_BY_ANSIBLE_ALONE: Mapping[str, frozenset[str]] = {
    "addressfamily": frozenset({"any"}),
    "bindaddress": frozenset(),
    "bindinterface": frozenset(),
    "certificatefile": frozenset(),
    "hostbasedauthentication": frozenset({"no"}),
    "knownhostscommand": frozenset({"none"}),
    "pkcs11provider": frozenset({"none"}),
    "proxyusefdpass": frozenset({"no"}),
    "verifyhostkeydns": frozenset({"no", "false"}),
}
"""Options that Fabric cannot follow, with the values that ask for nothing. Without GSSAPIAuthentication, which Debian
asks for on every host."""
_REFUSED = ("revokedhostkeys",)
"""Options that would be loosened by not following them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Where a connection to a machine goes and what it uses. Paths are absolute.

    `key_name` is what the host's key is known as (HostKeyAlias, else HostName), `through` the argv of the program whose
    standard streams are the connection (ProxyJump, ProxyCommand; empty for TCP), `jump` what to type after ssh to try
    that way by itself, `unfollowed` the options of the configuration that Fabric cannot follow.
    """

    host: str
    port: int
    user: str
    key_name: str
    identities: tuple[str, ...] = ()
    identities_only: bool = False
    agent: str = ""
    known_hosts: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    jump: str = ""
    unfollowed: tuple[str, ...] = ()

    @property
    def is_alias(self) -> bool:
        """True when known_hosts has the key under a name of its own, which no port belongs to."""
        return self.key_name != self.host

    @property
    def known_as(self) -> str:
        """The machine's name in known_hosts."""
        return self.key_name if self.is_alias or self.port == 22 else f"[{self.host}]:{self.port}"


def reached(machine: Machine) -> Reached:
    """Asks OpenSSH. Raises HostLacks without it, StepFailed when it cannot read its configuration."""
    argv = ("ssh", "-G", *lab_options(machine), "-p", str(machine.port), "-l", machine.user, "--", machine.address)
    return parse_answer(_answer(argv, machine), machine, environment=os.environ)


def lab_options(machine: Machine) -> tuple[str, ...]:
    """What lab.yaml says of keys, as options that ssh takes whatever characters are in the paths."""
    options: list[str] = []
    if machine.key:
        # One key is named: the agent's others are not offered, of which a server takes only so many.
        options += ["-o", in_quotes("IdentityFile", str(Path(machine.key).expanduser())), "-o", "IdentitiesOnly=yes"]
    if machine.known_hosts:
        options += ["-o", in_quotes("UserKnownHostsFile", str(Path(machine.known_hosts).expanduser()))]
    return tuple(options)


def settled(machines: Sequence[Machine]) -> tuple[Machine, ...]:
    """The machines with the user and port that the configuration of ssh names where lab.yaml leaves them open."""
    return tuple(m if m.names_user and m.names_port else _settled(m) for m in machines)


@functools.lru_cache(maxsize=1024)
def _settled(machine: Machine) -> Machine:
    if process.find_program("ssh") is None:
        return machine
    # Read first and last, it distinguishes a user that is named from the user that asks.
    files = "Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n"
    with tempfile.NamedTemporaryFile("w", prefix="labctl-ssh-", suffix=".conf") as config:
        config.write(f"{files}Match all\nUser {_NOBODY}\n")
        config.flush()
        user = ("-l", machine.user) if machine.names_user else ()
        port = ("-p", str(machine.port)) if machine.names_port else ()
        answer = _answer(("ssh", "-F", config.name, "-G", *user, *port, "--", machine.address), machine)
    said = _values(answer)
    named = said.get("user", [_NOBODY])[0]
    return replace(
        machine,
        user=machine.user if named == _NOBODY else named,
        port=int(said.get("port", [str(machine.port)])[0]),
        names_user=True,
        names_port=True,
    )


def _answer(argv: Sequence[str], machine: Machine) -> str:
    if process.find_program("ssh") is None:
        raise HostLacks(
            what="ssh is not on this host", cause="labctl reaches machines by ssh's configuration",
            remedy="apt-get install openssh-client",
        )  # fmt: skip
    done = process.run(argv, timeout_s=_ASK_S)
    if done.returncode != 0 or done.timed_out:
        lines = [line.strip() for line in done.error_text.splitlines() if line.strip()]
        raise StepFailed(
            what=f"{machine.node} ({machine.address}): ssh cannot read its configuration",
            cause="; ".join(lines[-3:]) or f"it did not end in {_ASK_S:g} s",
            remedy=f"ssh -G {machine.place}",
        )
    return done.text


def _values(answer: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for line in answer.splitlines():
        name, _, value = line.partition(" ")
        values.setdefault(name.lower(), []).append(value)
    return values


def parse_answer(answer: str, machine: Machine, *, environment: Mapping[str, str]) -> Reached:
    """From what `ssh -G` prints. Pure but for names of users and of this host, which tokens stand for.

    Raises StepFailed for an option that has to be followed and cannot be.
    """
    said = _values(answer)

    def one(name: str, default: str = "") -> str:
        return said.get(name, [default])[0]

    refused = [name for name in _REFUSED if one(name, "none") != "none"]
    if refused:
        raise StepFailed(
            what=f"{machine.node} ({machine.address}): cannot be reached as ssh's configuration says",
            cause=f"labctl cannot follow {', '.join(refused)}, and does not connect without it",
            remedy="give this machine a Host entry in ~/.ssh/config without it",
        )
    host, port, user = one("hostname", machine.address), int(one("port", str(machine.port))), one("user", machine.user)
    alias = one("hostkeyalias", "none")
    alias = "" if alias == "none" else alias
    jump = one("proxyjump", "none")
    jump = "" if jump == "none" else jump
    tokens = _tokens(host, port, user, machine.address, alias, jump)

    def filled(text: str) -> str:
        return _filled(text, tokens, environment)

    command = one("proxycommand", "none")
    through: tuple[str, ...] = ()
    if jump:
        through = argv_jump(jump, host, port)
    elif command != "none":
        shell = environment.get("SHELL") or "/bin/sh"
        through = (shell, "-c", f"exec {filled(command)}")
    agent = one("identityagent", "SSH_AUTH_SOCK")
    if agent.startswith("$") and not agent.startswith("${"):
        agent = environment.get(agent[1:], "none")
    agent = environment.get("SSH_AUTH_SOCK", "") if agent == "SSH_AUTH_SOCK" else _path(filled(agent), tokens)
    files = [*_paths(one("userknownhostsfile")), *([] if machine.known_hosts else _paths(one("globalknownhostsfile")))]
    if machine.known_hosts:
        files = [str(Path(machine.known_hosts).expanduser())]
    return Reached(
        host=host,
        port=port,
        user=user,
        key_name=alias or host,
        identities=tuple(dict.fromkeys(_path(filled(text), tokens) for text in said.get("identityfile", ()))),
        identities_only=one("identitiesonly", "no") == "yes",
        agent="" if agent == "none" else agent,
        known_hosts=tuple(_path(file, tokens) for file in files if file not in ("", "none", "/dev/null")),
        through=through,
        jump=" ".join(_hop(jump.rpartition(",")[2])) if jump else "",
        unfollowed=tuple(
            name
            for name, harmless in _FOLLOWED_BY_ANSIBLE_ALONE.items()
            if name in said and not set(said[name]) <= harmless
        ),
    )


def argv_jump(jump: str, host: str, port: int) -> tuple[str, ...]:
    """The ssh whose standard streams lead to host:port, by way of the hops of a ProxyJump. It never prompts."""
    before, _, last = jump.rpartition(",")
    target = f"[{host}]:{port}"
    return (
        "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10",
        *(("-J", before) if before else ()), "-W", target, *_hop(last),
    )  # fmt: skip


def _hop(hop: str) -> tuple[str, ...]:
    """A hop of a ProxyJump (`[user@]host[:port]`, or a URI) as arguments of ssh."""
    if hop.startswith("ssh://"):
        return (hop,)
    user, at, place = hop.rpartition("@")
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*):(\d+)", place)
    name, port = (found[1], ("-p", found[2])) if found else (place, ())
    return (*port, f"{user}{at}{name.strip('[]')}")


def _paths(text: str) -> list[str]:
    """Files that stand on one line. ssh prints blanks in them as they are; a new path begins with / or ~."""
    return _BEGINNINGS.split(text) if text else []


def _path(text: str, tokens: Mapping[str, str]) -> str:
    """With ~ as ssh reads it: the home in the user database, not $HOME."""
    return tokens["d"] + text[1:] if text == "~" or text.startswith("~/") else str(Path(text).expanduser())


def _tokens(host: str, port: int, user: str, original: str, alias: str, jump: str) -> dict[str, str]:
    """What %-tokens stand for (ssh_config(5), TOKENS)."""
    me = pwd.getpwuid(os.getuid())
    here = socket.gethostname()
    return {
        "%": "%", "d": me.pw_dir, "h": host, "i": str(me.pw_uid), "j": jump, "k": alias or original,
        "L": here.partition(".")[0], "l": here, "n": original, "p": str(port), "r": user, "u": me.pw_name,
    }  # fmt: skip


def _filled(text: str, tokens: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Tokens and ${VARIABLES} filled in; one that is not known stays."""

    def stands_for(found: re.Match[str]) -> str:
        return environment.get(found[2], found[0]) if found[2] else tokens.get(found[1], found[0])

    return _TOKEN.sub(stands_for, text)


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is one of a pattern list (ssh_config(5), PATTERNS): any of them, and none that begins with `!`."""

    def fits(pattern: str) -> bool:
        return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name, re.IGNORECASE))

    return any(fits(p) for p in patterns if p[:1] != "!") and not any(fits(p[1:]) for p in patterns if p[:1] == "!")


def ansible_arguments(machine: Machine) -> str:
    """`lab_options` as Ansible takes arguments of ssh: one line that it splits as a shell would."""
    return shlex.join(lab_options(machine))
