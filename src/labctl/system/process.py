"""Processes: started in a namespace and on a CPU, collected without deadlock, dead when labctl is.

All of them are started by one thread that lives as long as labctl does. It alone enters namespaces, so no other
thread is ever in a wrong one; and "die with the parent" (prctl PR_SET_PDEATHSIG) means the parent *thread*, so a
process that a short-lived thread started would die with that thread. In a namespace a process sees that namespace's
own /sys (`view`), and with `powers` its own kind of processes alone (`pids`).

Output goes to memory files, not to pipes: nothing has to be read for a process to go on. They have a size that the
kernel lets no process exceed, whether its output is waited for or not: one that prints more gets an error of its own,
is killed, and has failed (`require_bounded`). What prints without end gets a descriptor of the caller's instead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import queue
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType, TracebackType

from labctl.errors import MeasureFailed
from labctl.model.result import Completed
from labctl.system import netns
from labctl.system.clock import Deadline
from labctl.system.powers import Powers, argv_limit, held
from labctl.system.signals import stop_if_asked
from labctl.system.view import Programs, Views
from labctl.units import MILLI
from labctl.values import dataclass

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_OUTPUT_BYTE = 32 << 20
"""Of each stream. As text and lines in memory that is up to five times as much; an hour of iperf3's JSON is 4 MB."""
_MOST_LOG_BYTE = 256 << 20
"""Of a stream that the program opens by its name, as sockperf for its log: a line for each packet."""
_BY_NAME = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_POLL_OUTPUT_S = 0.001
_POLL_SIZE_S = 0.1
_TAIL_BYTES = 400


def find_program(name: str) -> str | None:
    """Where the program is, on PATH and then in the places where system tools are even if PATH lacks sbin."""
    return shutil.which(name) or shutil.which(name, path=_SEARCH)


SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What sudo, as distributions set it up, makes of PATH."""


def first_on_path(name: str) -> tuple[str, ...]:
    """What the shell starts by that name, for this user and, where it is another program, under sudo."""
    found = (shutil.which(name), shutil.which(name, path=SECURE_PATH))
    return tuple(dict.fromkeys(path for path in found if path))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    argv: tuple[str, ...]
    namespace: int | None
    directory: str | None
    cpu: int | None
    environment: Mapping[str, str]
    powers: Powers | None
    cgroup: int | None
    stdin: int
    stdout: int
    stderr: int
    done: Future[subprocess.Popen[bytes]]


class _Spawner:
    """The one thread that starts processes."""

    def __init__(self) -> None:
        self.views = Views()
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="labctl-spawner", daemon=True).start()

    def spawn(self, order: _Order) -> subprocess.Popen[bytes]:
        self._orders.put(order)
        return order.done.result()

    def _serve(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        while True:
            order = self._orders.get()
            try:
                order.done.set_result(_spawn(order, self.views, home))
            except BaseException as failed:
                order.done.set_exception(failed)


@functools.cache
def _spawner() -> _Spawner:
    return _Spawner()


@functools.cache
def _setpriv() -> tuple[str, str]:
    """Where it is, and what is wrong with it: busybox has another one, which knows no option of these."""
    setpriv, true = find_program("setpriv"), find_program("true")
    if setpriv is None or true is None:
        return "", "setpriv, which limits a program's privileges, is not on this host"
    argv = (setpriv, "--pdeathsig", "KILL", "--", true)
    tried = subprocess.run(argv, capture_output=True, check=False, timeout=60, start_new_session=True)
    if tried.returncode == 0:
        return setpriv, ""
    words = tried.stderr.decode(errors="replace").strip().partition("\n")[0] or f"exit code {tried.returncode}"
    return setpriv, f"setpriv, which limits a program's privileges, cannot do so ({setpriv}, first on PATH: {words})"


@functools.cache
def _dying_with_us(powers: Powers | None) -> tuple[str, ...]:
    """setpriv asks the kernel for it, gives up what `powers` lack, and then becomes the program; a preexec_fn could
    deadlock between threads and would rule out vfork."""
    setpriv, lacks = _setpriv()
    if lacks:
        if powers is not None:
            raise OSError(errno.ENOENT, lacks)
        return ()
    return (setpriv, "--pdeathsig", "KILL", *(argv_limit(powers, held()) if powers is not None else ()), "--")


def dying_with_this_thread() -> tuple[str, ...]:
    """The beginning of an argv whose program the kernel ends when the thread that starts it ends, labctl with it. For
    libraries that start programs themselves; empty where this host cannot do so."""
    return _dying_with_us(None)


_JOIN = 'echo 0 >"/proc/self/fd/$1/cgroup.procs" && shift && exec "$@"'


def _joining(cgroup: int | None) -> tuple[str, ...]:
    """What a program is started by to be in a cgroup before it can open a socket: a shell that enters it, and becomes
    the program. Python cannot start a process in a cgroup, and to be moved afterwards may be too late. The cgroup is an
    inherited descriptor of its directory (O_PATH), which the program keeps: where it stands /sys may be read-only."""
    return ("sh", "-c", _JOIN, "sh", str(cgroup)) if cgroup is not None else ()


def _programs() -> Programs:
    return Programs(setpriv=find_program("setpriv") or "setpriv", mount=find_program("mount") or "mount")


@functools.cache
def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}


def without_own_sys() -> OSError | None:
    """Why processes in namespaces see the host's /sys here; None where they see their own, and before the first."""
    return _spawner().views.refused


def without_own_processes() -> OSError | None:
    """Why processes that were started with `powers` see the host's processes here; None where they see their own, and
    before the first."""
    return _spawner().views.unnumbered


def _can_be_entered(directory: str) -> bool:
    """A user's own directory may be closed to root: that of a network file system, or outside a user namespace."""
    return os.access(f"{directory}/.", os.X_OK)


def _spawn(order: _Order, views: Views, home: int) -> subprocess.Popen[bytes]:
    usable = os.sched_getaffinity(0)
    before = _dying_with_us(order.powers)
    if order.powers is not None:
        views.number(_programs())
    with contextlib.ExitStack() as stack:
        if order.namespace is None:
            views.stand_at_home()
        else:
            stack.enter_context(netns.entered(order.namespace, home=home))
            views.stand_inside(order.powers)
            stack.enter_context(views.bearing())
        if order.cpu is not None:
            os.sched_setaffinity(0, {order.cpu})
            stack.callback(os.sched_setaffinity, 0, usable)
        return subprocess.Popen(
            (*before, *_joining(order.cgroup), *order.argv),
            stdin=order.stdin,
            stdout=order.stdout,
            stderr=order.stderr,
            cwd=order.directory if order.directory is not None and _can_be_entered(order.directory) else None,
            env={**_environment(), **order.environment},
            start_new_session=True,
            pass_fds=() if order.cgroup is None else (order.cgroup,),
        )


def require_bounded(argv: Sequence[str], size_byte: int, most_byte: int, tail: bytes, where: str = "") -> None:
    """Raises MeasureFailed when a program printed `most_byte` or more; `tail` is the end of what it printed."""
    if size_byte < most_byte:
        return
    raise MeasureFailed(
        what=f"{argv[0]}{where} printed more than {most_byte >> 20} MiB, and was killed",
        cause=f"its last output: {tail[-_TAIL_BYTES // 4 :].decode(errors='replace').strip()}",
        remedy=f"{shlex.join(argv)} | head  # does it print as much when run by hand?",
    )


class _Output:
    """A memory file that a program prints into, of a bounded size.

    It has its full size from the start, takes memory only for what is written, and cannot grow: the writers share one
    offset, which says how much there is. A program that opens its stream by name truncates it first, and could then
    write nothing: such a file grows, and the wait for the program looks at its size.
    """

    def __init__(self, name: str, *, is_opened_by_name: bool) -> None:
        self.most_byte = _MOST_LOG_BYTE if is_opened_by_name else MOST_OUTPUT_BYTE
        self._grows = is_opened_by_name
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if not self._grows:
            os.ftruncate(self.descriptor, self.most_byte)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def size_byte(self) -> int:
        size_byte = os.fstat(self.descriptor).st_size
        return size_byte if self._grows else min(os.lseek(self.descriptor, 0, os.SEEK_CUR), size_byte)

    def read(self) -> bytes:
        """All of it; only the end of what is too much."""
        size_byte = self.size_byte
        begin = size_byte - _TAIL_BYTES if size_byte >= self.most_byte else 0
        return os.pread(self.descriptor, size_byte - begin, begin)


class Process:
    """A process that was started; `Running` of the provider seam. Leaving its context kills its whole group."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        namespace: Path | None = None,
        cpu: int | None = None,
        stdin: bytes | int = b"",
        output: int | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        powers: Powers | None = None,
        cgroup: Path | None = None,
    ) -> None:
        """`stdin` is what it reads, or a descriptor to read from. `output` is a descriptor that gets its standard
        output, which is then not kept here. It runs in `directory`
        (labctl's own, unless given), with `environment` over labctl's. With `powers`, which go with a namespace, it may
        do no more than they say, and sees the processes that were started so, no others. `cgroup` is the directory of
        the cgroup that it is in from its beginning. Raises MeasureFailed when the
        program is not there or the namespace is gone."""
        self.argv = tuple(argv)
        program = find_program(self.argv[0])
        if program is None:
            raise MeasureFailed(
                what=f"the program {self.argv[0]} is not on this host", remedy="labctl doctor  # names the package"
            )
        self._ended: Completed | None = None
        self._flooded: MeasureFailed | None = None
        self._begun_s = time.monotonic()
        by_name = any(name in word for word in self.argv for name in _BY_NAME)
        with contextlib.ExitStack() as on_failure:
            self._stdout = _Output("stdout", is_opened_by_name=by_name)
            on_failure.callback(self._stdout.close)
            self._stderr = _Output("stderr", is_opened_by_name=by_name)
            on_failure.callback(self._stderr.close)
            try:
                with _input(stdin) as source, _opened(namespace) as entrance, _opened(cgroup, os.O_PATH) as group:
                    order = _Order(
                        argv=(program, *self.argv[1:]),
                        namespace=entrance,
                        directory=_working_directory() if directory is None else str(directory),
                        cpu=cpu,
                        environment=environment or {},
                        powers=powers,
                        cgroup=group,
                        stdin=source,
                        stdout=self._stdout.descriptor if output is None else output,
                        stderr=self._stderr.descriptor,
                        done=Future(),
                    )
                    self._popen = _spawner().spawn(order)
            except (OSError, ValueError) as failed:  # a zero in a word, which no program can be given
                raise MeasureFailed(
                    what=f"could not start {self.argv[0]}" + (f" in {namespace}" if namespace else ""),
                    cause=str(failed),
                ) from failed
            self._pidfd = os.pidfd_open(self._popen.pid)
            on_failure.pop_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)
        self._collect(timed_out=False)

    def is_alive(self) -> bool:
        return self._ended is None and not self._has_ended_within(0.0)

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        """Blocks until `text` stood in stdout or stderr. Raises MeasureFailed with what was last seen."""
        deadline = Deadline.after(timeout_s)
        wanted = text.encode()
        while True:
            # The order matters: what an ended process printed is complete.
            alive = self.is_alive()
            self._require_bounded()
            if wanted in self._read(self._stdout) or wanted in self._read(self._stderr):
                return
            if not alive or deadline.is_over():
                seen = (self._read(self._stderr) or self._read(self._stdout))[-_TAIL_BYTES:]
                what = (
                    f"did not print '{text}' within {timeout_s:g} s" if alive else f"ended before it printed '{text}'"
                )
                raise MeasureFailed(
                    what=f"{self.argv[0]} {what}",
                    cause=f"it printed: {seen.decode(errors='replace').strip() or 'nothing'}",
                    remedy=shlex.join(self.argv),
                )
            if self._has_ended_within(_POLL_OUTPUT_S):
                continue

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        """Sends the signal (unless it has ended), waits, kills at the deadline, and gives everything it printed."""
        if self.is_alive():
            self._signal(sig)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        """Waits for its own end; kills it at the deadline (`timed_out`). Raises MeasureFailed when it printed more than
        is kept, and kills it then, too."""
        deadline = Deadline.after(timeout_s)
        while not (in_time := self._has_ended_within(min(deadline.left_s(), _POLL_SIZE_S))):
            if deadline.is_over() or self._is_flooded():
                break
            stop_if_asked()
        ended = self._collect(timed_out=not in_time)
        self._require_bounded()
        return ended

    def _has_ended_within(self, timeout_s: float) -> bool:
        if self._ended is not None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s / MILLI))

    def _signal(self, sig: int) -> None:
        """To its group: it leads one of its own, and stays its leader as a zombie until it is collected."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, sig)

    def _collect(self, *, timed_out: bool) -> Completed:
        if self._ended is not None:
            return self._ended
        # Also after a normal end: what it left behind in its group goes with it.
        self._signal(signal.SIGKILL)
        _, status, usage = os.wait4(self._popen.pid, 0)
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        try:
            for stream in (self._stdout, self._stderr):
                require_bounded(self.argv, stream.size_byte, stream.most_byte, stream.read())
        except MeasureFailed as flooded:
            self._flooded = flooded
        self._ended = Completed(
            argv=self.argv,
            returncode=self._popen.returncode,
            stdout=self._stdout.read(),
            stderr=self._stderr.read(),
            duration_s=time.monotonic() - self._begun_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            timed_out=timed_out,
        )
        self._stdout.close()
        self._stderr.close()
        os.close(self._pidfd)
        return self._ended

    def _is_flooded(self) -> bool:
        return any(stream.size_byte >= stream.most_byte for stream in (self._stdout, self._stderr))

    def _require_bounded(self) -> None:
        if self._ended is None and self._is_flooded():
            self._signal(signal.SIGKILL)
            self._collect(timed_out=False)
        if self._flooded is not None:
            raise self._flooded

    def _read(self, stream: _Output) -> bytes:
        if self._ended is not None:
            return self._ended.stdout if stream is self._stdout else self._ended.stderr
        return stream.read()


@contextlib.contextmanager
def _opened(path: Path | None, flags: int = os.O_RDONLY) -> Iterator[int | None]:
    """Opened here, not by the spawner: where it stands the name may not be there yet."""
    if path is None:
        yield None
        return
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _working_directory() -> str | None:
    """Of labctl, since the spawner has one of its own once it stood in a view. None when it was removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


@contextlib.contextmanager
def _input(data: bytes | int) -> Iterator[int]:
    if isinstance(data, int):
        yield data
        return
    if not data:
        yield subprocess.DEVNULL
        return
    descriptor = os.memfd_create("stdin")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    namespace: Path | None = None,
    cpu: int | None = None,
    stdin: bytes = b"",
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    powers: Powers | None = None,
    cgroup: Path | None = None,
) -> Completed:
    """Runs argv to its end, or to the deadline (`timed_out`). Raises MeasureFailed when it cannot be started."""
    with Process(
        argv,
        namespace=namespace,
        cpu=cpu,
        stdin=stdin,
        directory=directory,
        environment=environment,
        powers=powers,
        cgroup=cgroup,
    ) as process:
        return process.wait(timeout_s=timeout_s)


def stand_by(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    keep: Sequence[int] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Starts a process in a session of its own that lives on when labctl ends, and is not waited for; it is in the
    namespace of the calling thread, reads from the descriptor `stdin`, and has those of `keep`. Raises MeasureFailed
    when it cannot be started."""
    program = find_program(argv[0])
    if program is None:
        raise MeasureFailed(what=f"the program {argv[0]} is not on this host", remedy="labctl doctor")
    try:
        subprocess.Popen(
            (program, *argv[1:]),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            pass_fds=keep,
            start_new_session=True,
        ).returncode = 0  # its end is nobody's to wait for: Python would say so when it forgets the process
    except OSError as failed:
        raise MeasureFailed(what=f"could not start {argv[0]}", cause=str(failed)) from failed


def output_of(argv: Sequence[str], *, timeout_s: float = 5.0) -> str:
    """What the program printed on both streams; the empty text when it is not there. For questions like `--version`."""
    try:
        completed = run(argv, timeout_s=timeout_s)
    except MeasureFailed:
        return ""
    return completed.text + completed.error_text
