"""The links between labctl and the machines' sshds, or an API server: as slow as wanted, cut, or dead. The network of
this host is not touched.

Each machine is reached through a port of this host's loopback; what passes can be delayed, hung up, or swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence

from rig_machines import RigMachine

_CHUNK_BYTE = 65536


class Link:
    """One port. `delay_s` is what each direction takes longer; a dead link accepts connections and passes nothing."""

    def __init__(self, machine: RigMachine, there: int) -> None:
        self.machine, self._there = machine, there
        self.port = 0
        self.delay_s = 0.0
        self.is_dead = False
        self.made = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self.is_dead:
                await reader.read()  # what comes is swallowed until the other side gives up
                return
            there = await asyncio.open_connection(self.machine.address, self._there)
            self._writers.add(there[1])
            await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
        for one in (writer, *([there[1]] if "there" in locals() else [])):
            self._writers.discard(one)
            one.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What comes goes on `delay_s` later, in order and without waiting for what went before."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def send() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                if self.is_dead:
                    continue
                writer.write(data)
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            while data := await reader.read(_CHUNK_BYTE):
                await waiting.put((loop.time() + self.delay_s, data))
            await waiting.put((loop.time() + self.delay_s, b""))
            await sending
        except OSError:
            sending.cancel()

    def hang_up(self) -> None:
        """Ends every connection that is open, as a reset."""
        for writer in list(self._writers):
            writer.transport.abort()


class Links:
    """A link to that port of each machine, served by a thread of its own while the context lasts."""

    def __init__(self, machines: Sequence[RigMachine], port: int = 22) -> None:
        self.links = [Link(machine, port) for machine in machines]
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Links:
        self._thread.start()
        for link in self.links:
            server = asyncio.run_coroutine_threadsafe(
                asyncio.start_server(link.serve, "127.0.0.1", 0), self._loop
            ).result(timeout=10)  # fmt: skip
            link.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _shut(self) -> None:
        """Nothing listens and nothing is open: pytest takes what is left to the garbage collector for a failure."""
        await asyncio.sleep(0.01)  # a connection that was just taken does not find its server closed
        for server in self._servers:
            server.close()
        await asyncio.sleep(0.01)  # and begins: a task that never ran closes nothing
        while left := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            for link in self.links:
                link.hang_up()
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for _ in range(3):  # transports close their sockets in the loop's next turns
            await asyncio.sleep(0.01)

    def cut(self, *numbers: int) -> None:
        """Ends the connections of these machines (counted from 0), or of all; new ones are welcome."""
        for link in [self.links[number] for number in numbers] or self.links:
            self._loop.call_soon_threadsafe(link.hang_up)

    @contextlib.contextmanager
    def slow(self, round_trip_s: float) -> Iterator[None]:
        """Every round trip takes that much longer."""
        for link in self.links:
            link.delay_s = round_trip_s / 2
        try:
            yield
        finally:
            for link in self.links:
                link.delay_s = 0.0

    @contextlib.contextmanager
    def dead(self, number: int) -> Iterator[None]:
        """Nothing passes to that machine, and nothing says so, as where a cable is out."""
        self.links[number].is_dead = True
        try:
            yield
        finally:
            self.links[number].is_dead = False
            self.cut(number)
