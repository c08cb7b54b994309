"""What is said of a machine that does not answer in time, or hangs up, at each turn of a login and of a program."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import paramiko  # type: ignore[import-untyped]
import pytest

from labctl.errors import LabError
from labctl.model.sections import MachineRole
from labctl.providers.kubeadm import ssh
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.ssh_config import Reached

MACHINE = Machine(node="node1", role=MachineRole.WORKER, address="node-a.lab", user="lab")
Act = Callable[[socket.socket], None]
OVER = threading.Event()
"""The client has given up."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """`host` and `user`, each with its public part."""
    for name in ("host", "user"):
        made = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name))
        subprocess.run(made, check=True)
    return tmp_path


@contextlib.contextmanager
def sshd(act: Act) -> Iterator[int]:
    """One that does `act` with its first connection. Gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                act(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(60)
            assert not thread.is_alive()


def until_closed(connection: socket.socket) -> None:
    """Says nothing more, whatever comes."""
    connection.settimeout(60)
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def no_banner(connection: socket.socket, keys: Path) -> None:
    until_closed(connection)


def hung_up_at_once(connection: socket.socket, keys: Path) -> None:
    """As MaxStartups and the drop of a full server do."""


def no_key_exchange(connection: socket.socket, keys: Path) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    until_closed(connection)


def hung_up_after_the_banner(connection: socket.socket, keys: Path) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.recv(1024)


def no_login(connection: socket.socket, keys: Path) -> None:
    """Its keys are exchanged, and whether the user may come in is never said."""
    asked = threading.Event()

    class Server(paramiko.ServerInterface):  # type: ignore[misc]
        def get_allowed_auths(self, username: str) -> str:
            return "publickey"

        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            asked.wait(60)
            return int(paramiko.AUTH_FAILED)

    transport = paramiko.Transport(connection)
    transport.add_server_key(paramiko.PKey.from_path(keys / "host"))
    transport.start_server(server=Server(), event=threading.Event())
    OVER.wait(60)
    asked.set()
    transport.close()
    transport.join(60)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (no_banner, "Connection timed out during banner exchange"),
        (hung_up_at_once, "Connection closed by remote host"),
        (no_key_exchange, "Connection timed out during key exchange"),
        # Reset, if something of ours came in meanwhile that was not read.
        (hung_up_after_the_banner, "Connection (closed by remote host|reset by peer)"),
        (no_login, "Connection timed out during authentication"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_login_that_stops_is_told_as_no_answer_and_where_it_stopped(
    act: Callable[[socket.socket, Path], None], said: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OVER.clear()
    (keys / "known_hosts").write_text(f"node-a.lab {(keys / 'host.pub').read_text()}")
    with sshd(lambda connection: act(connection, keys)) as port:
        goal = Reached(
            host="127.0.0.1", port=port, user="lab", key_name="node-a.lab",
            identities=(str(keys / "user"),), identities_only=True, known_hosts=(str(keys / "known_hosts"),),
        )  # fmt: skip
        monkeypatch.setattr(ssh, "reached", lambda _: goal)
        try:
            with pytest.raises(LabError) as failed:
                ssh.connect(MACHINE, 0.0, login_s=1.0)
        finally:
            OVER.set()
    assert failed.value.what == "node1 (node-a.lab): cannot be reached"
    assert failed.value.cause.startswith("node-a.lab does not answer, or dropped the connection")
    assert re.search(rf"The message: {said}", failed.value.cause)


class Hanging:
    """paramiko's channel over a connection that ends at the call of that name: its thread has closed the socket."""

    exit_status, closed, eof_received = -1, False, True

    def __init__(self, ends_at: str) -> None:
        self.ends_at = ends_at

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*_: object, **__: object) -> object:
            if name == self.ends_at:
                self.__class__.gone.set()
                raise EOFError
            return -1 if name == "recv_exit_status" else name == "exit_status_ready"

        return call

    gone = threading.Event()


@pytest.mark.parametrize(
    ("ends_at", "stdin", "error"),
    [
        ("exec_command", b"", "cannot be reached"),
        ("shutdown_write", b"to be read", "the connection to node1 was lost"),
        ("sendall", b"to be read", "the connection to node1 was lost"),
        ("close", b"", "the connection to node1 was lost"),
    ],
)
def test_a_connection_that_ends_under_a_program_is_told_once_and_in_words(
    ends_at: str, stdin: bytes, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever paramiko meets it, in threads of ours too, of which Python would print a traceback."""
    Hanging.gone.clear()
    before = set(threading.enumerate())
    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    channel = Hanging(ends_at)
    transport = SimpleNamespace(open_session=lambda timeout: channel)
    kept = SimpleNamespace(is_connected=True, transport=transport, close=lambda: None)
    monkeypatch.setattr(ssh, "connect", lambda machine: kept)
    with pytest.raises(LabError, match=error):
        ssh.MachineCommands(Machine(node="node1", role=MachineRole.WORKER, address="a", user="root")).run(
            ("cat",), timeout_s=60, stdin=stdin
        )
    assert Hanging.gone.wait(60)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert said == []


# ---- a machine that says too much before it has shown a key


def pours(connection: socket.socket, part: bytes, before: bytes = b"") -> None:
    """Until the client has hung up."""
    connection.settimeout(60)
    with contextlib.suppress(OSError):
        connection.sendall(before)
        while True:
            connection.sendall(part)


GREETING = b"SSH-2.0-OpenSSH_9.2\r\n"
LARGE = (0xFFFFFFFC).to_bytes(4, "big") + bytes(12)
FLOODS: dict[str, tuple[bytes, bytes, str]] = {
    "a greeting without an end": (b"x" * 65536, b"", "greets with more than 65536 bytes"),
    "lines before the greeting": (b"x" * 4095 + b"\n", b"", "greets with more than 65536 bytes"),
    "zeros": (bytes(65536), b"", "greets with more than 65536 bytes"),
    "a packet of four gigabytes": (bytes(65536), GREETING + LARGE, "announced a packet of"),
    "a packet of a megabyte": (
        bytes(65536),
        GREETING + ((1 << 20) + 4).to_bytes(4, "big") + bytes(12),
        "announced a packet",
    ),
}


@pytest.mark.parametrize(("part", "before", "said"), FLOODS.values(), ids=FLOODS)
def test_a_machine_that_pours_out_before_it_is_known_is_cut_off_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, part: bytes, before: bytes, said: str
) -> None:
    with sshd(lambda connection: pours(connection, part, before)) as port:
        goal = Reached(host="127.0.0.1", port=port, user="lab", key_name="node-a.lab")
        monkeypatch.setattr(ssh, "reached", lambda machine: goal)
        tracemalloc.start()
        try:
            with pytest.raises(LabError) as raised:
                ssh.connect(MACHINE, 0.0, login_s=1.0)
            _, peak_byte = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert said in raised.value.cause
    assert peak_byte < 32 << 20
