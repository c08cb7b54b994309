"""Containers that end with an error while `up` waits for their pods: since when, and what their logs say last.

A container that starts before what it needs ends once or twice and then stays, so a crash is told at once and given
`PATIENCE_S`. That time is counted from the first end, not from the state of the moment: between two ends such a
container runs, and `kubectl get pods` shows it as running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from labctl.providers.base import Completed
from labctl.providers.cilium.commands import errors_in
from labctl.providers.cilium.workloads import PodState

PATIENCE_S = 30.0
_TAIL = 40
_SHOWN = 3


class Crashes:
    """Of the pods of one wait. `run` asks kubectl with these arguments, which choose the namespace."""

    def __init__(self, run: Callable[[Sequence[str]], Completed]) -> None:
        self._run = run
        self._restarts: dict[str, int] = {}
        self._since_s: dict[str, float] = {}
        self._said: dict[tuple[str, int], tuple[str, ...]] = {}

    def look(self, pods: Iterable[PodState], now_s: float) -> None:
        for pod in pods:
            before = self._restarts.setdefault(pod.name, pod.restarts)
            if pod.is_ready:
                self._since_s.pop(pod.name, None)
                self._restarts[pod.name] = pod.restarts
            elif pod.crashing or (pod.crashed and pod.restarts > before):
                self._since_s.setdefault(pod.name, now_s)

    def is_one(self, pod: PodState) -> bool:
        """Whether a container of it has ended with an error since the wait began, and the pod was not ready since."""
        return pod.name in self._since_s and not pod.is_ready

    def is_hopeless(self, pod: PodState, now_s: float) -> bool:
        """Whether it is down now, and has been crashing for as long as that may last."""
        return bool(pod.crashing) and self.is_one(pod) and now_s - self._since_s[pod.name] >= PATIENCE_S

    def log(self, pod: PodState) -> tuple[str, ...]:
        """The last lines of the container that ended, errors before others; asked for once for each of its ends."""
        key = (pod.name, pod.restarts)
        if key not in self._said:
            before = () if pod.has_just_ended else ("--previous",)
            argv = ("logs", pod.name, "--container", pod.crashing or pod.crashed, *before, f"--tail={_TAIL}")
            done = self._run(argv)
            lines = [line.strip() for line in done.text.splitlines() if line.strip()] if done.returncode == 0 else []
            self._said[key] = tuple((errors_in(done.text) or lines)[-_SHOWN:]) if lines else ()
        return self._said[key]
