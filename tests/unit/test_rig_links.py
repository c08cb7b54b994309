"""The links of the rig: they pass, delay, cut and swallow, and leave nothing open for the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rig_links import Links


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


class _Machine:
    address = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


def _connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(b"hello")
    return made


def test_links_do_what_they_are_asked_and_close_all_that_they_opened(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    machines: Any = [_Machine(), _Machine()]
    with contextlib.ExitStack() as stack:
        with Links(machines, port=port) as links:
            first = stack.enter_context(_connected(links.links[0].port))
            assert first.recv(5) == b"hello"
            with links.slow(0.2):
                asked_s = time.monotonic()
                first.sendall(b"again")
                assert first.recv(5) == b"again"
                assert time.monotonic() - asked_s >= 0.2
            links.cut(0)
            with contextlib.suppress(ConnectionResetError):
                assert first.recv(1) == b""
            with links.dead(1):
                swallowed = stack.enter_context(_connected(links.links[1].port))
                swallowed.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    swallowed.recv(1)
            stack.enter_context(_connected(links.links[0].port))
        monkeypatch.setattr(sys, "unraisablehook", lambda told: left.append(str(told.exc_value)))
        del links
        gc.collect()
    assert [one for one in left if f"', {port})" not in one] == [], "the other side's sockets are this test's"
