"""Plugins of the Container Network Interface: programs that attach a pod to its node in turn, as their spec says.

Each program is run in the node's namespace with `CNI_…` in its environment, its own configuration on standard input and
the result of the one before in that as `prevResult` (https://www.cni.dev/docs/spec). What they answered is kept in the
lab's folder with all that taking the pod off takes, since that needs the same chain in reverse; what a plugin keeps
itself goes into a folder of its node's there. Devices have the names that the plugins gave them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.codec import plain, typed
from labctl.errors import HostLacks, LabError, StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.model.interfaces import POD_DEVICE, POD_DEVICE_INDEX
from labctl.names import split_namespace
from labctl.planning.shell import with_environment, word, written
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Object,
    ObjectKind,
    Thing,
    as_step_failed,
)
from labctl.providers.netns.kinds.link import device_things
from labctl.system import files, netns
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.system.process import Process

CHECKED_SINCE = (0, 4, 0)
"""The version of the specification from which on plugins can be asked whether all is as they left it."""
LACKS = "sudo make setup-networks"
_TIMEOUT_S = 30.0
_STATE = "plugins"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One program of the chain, by its file's name, its configuration as JSON, without `prevResult`, and the scenario's
    key that it comes from."""

    name: str
    configuration: str
    key: str = ""

    def document(self, result: str) -> str:
        """Its standard input; `result` is JSON, or empty for the first one."""
        return f'{self.configuration[:-1]},"prevResult":{result}}}' if result else self.configuration


def state_folder(lab: str) -> Path:
    """What a lab's plugins answered and keep, in the lab's own folder."""
    return netns.RUN_DIRECTORY / "labs" / lab / _STATE


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPlugin:
    """A program by its file's name, and the scenario's key that asks for it."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsFind(Object):
    """Asks each plugin which versions of the specification it speaks: before anything is made that would need it. Makes
    the folder for what is kept."""

    folder: str
    directory: str
    wanted: tuple[WantedPlugin, ...]
    version: str

    def shell(self) -> str:
        lines = [f"install -d -m 700 {word(self.folder)}"]
        lines += [f"CNI_COMMAND=VERSION {word(Path(self.directory) / one.name)} < /dev/null" for one in self.wanted]
        return "\n".join(lines)

    def undo(self) -> tuple[Object, ...]:
        return (StateDelete(folder=self.folder),)

    def make(self, context: BuildContext) -> None:
        from labctl.system import process  # not where a lab is only planned

        paths = [Path(self.directory) / one.name for one in self.wanted]
        for one, path in zip(self.wanted, paths, strict=True):
            if not path.is_file():
                raise _not_there(path, one.key)
        with contextlib.ExitStack() as stack:
            asked = [
                stack.enter_context(process.Process((str(path),), environment={"CNI_COMMAND": "VERSION"}))
                for path in paths
            ]
            answers = [running.wait(timeout_s=_TIMEOUT_S) for running in asked]
        for one, path, done in zip(self.wanted, paths, answers, strict=True):
            said = object_of(done.text)
            versions = said.get("supportedVersions") if said is not None else None
            if not isinstance(versions, list):
                cause = _refusal(done.text) or _beginning(done.error_text) or _beginning(done.text)
                raise HostLacks(
                    what=f"{path} does not say which versions of CNI it speaks",
                    cause=cause or f"it ended with status {done.returncode}",
                    remedy=f"CNI_COMMAND=VERSION {path} < /dev/null",
                    key=one.key,
                )
            if self.version not in versions:
                raise UsageError(
                    what=f"the plugin {one.name} does not speak version {self.version} of CNI",
                    cause=f"{path} speaks {', '.join(map(str, versions))}",
                    remedy=f"cniVersion: {versions[-1] if versions else '1.0.0'}",
                    key="podNetwork.conflist.cniVersion",
                )
        files.open_private(Path(self.folder)).close()


def _not_there(path: Path, key: str) -> HostLacks:
    """With the plugin of the nearest name, where the folder has one."""
    import difflib

    try:
        there = sorted(one.name for one in path.parent.iterdir() if one.is_file())
    except OSError as closed:
        there, found = [], f"{path.parent}: {closed.strerror}"
    else:
        found = f"{path.parent} has {', '.join(there) if there else 'no file'}"
    near = difflib.get_close_matches(path.name, there, n=1)
    is_installed = bool(there)
    return HostLacks(
        what=f"there is no CNI plugin {path.name} in {path.parent}",
        cause=found,
        remedy=f"type: {near[0]}"
        if near
        else "podNetwork.pluginDirectory: the folder that has it"
        if is_installed
        else LACKS,
        key=key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsAdd(Object):
    """Attaches a pod: each plugin adds its part (ADD), and where they can, each looks whether it is there (CHECK).
    One that refuses what it has just added itself cannot be asked later: that is kept, and is no failure.

    `namespace` is the node's and `inside` the pod's, which is the container's id as well. `address` is the one that the
    pod must have then. `arguments` are `CNI_ARGS`.
    """

    namespace: str
    inside: str
    folder: str
    directory: str
    address: IPv4Interface
    arguments: str
    is_checked: bool
    plugins: tuple[Plugin, ...]

    @property
    def pod(self) -> str:
        return (split_namespace(self.inside) or ("", self.inside))[1]

    def environment(self, command: str) -> dict[str, str]:
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.inside,
            "CNI_NETNS": str(netns.path_of(self.inside)),
            "CNI_IFNAME": POD_DEVICE,
            "CNI_PATH": self.directory,
            "CNI_ARGS": self.arguments,
        }

    def shell(self) -> str:
        lines = [
            written(self._kept(), f"{self._record()}\n"),
            self._exported(),
            *self._typed("ADD", range(len(self.plugins))),
            f"cp {word(self._result(len(self.plugins)))} {word(self._result())}",
        ]
        if self.is_checked:
            # A plugin may refuse what it has just added itself: no reason to stop.
            lines += (f"{line} || true" for line in self._typed("CHECK", range(len(self.plugins))))
        return "\n".join(lines)

    def typed_removal(self) -> str:
        numbers = reversed(range(len(self.plugins)))
        kept = " ".join(word(path) for path in (self._kept(), self._result()))
        return "\n".join((self._exported(), *self._typed("DEL", numbers), f"rm -f {kept}"))

    def _exported(self) -> str:
        """What is the same for every plugin."""
        said = self.environment("")
        return "export " + " ".join(f"{key}={word(text)}" for key, text in said.items() if key != "CNI_COMMAND")

    def _typed(self, command: str, numbers: Iterable[int]) -> Iterator[str]:
        """What one types for a command of each plugin: its configuration, its end replaced by the result before it."""
        for number in numbers:
            plugin = self.plugins[number]
            program = str(Path(self.directory) / plugin.name)
            run = with_environment({"CNI_COMMAND": command}, netns.command(self.namespace, (program,)))
            into = f" > {word(self._result(number + 1))}" if command == "ADD" else ""
            if number == 0 and command == "ADD":
                yield f"printf %s {word(plugin.configuration)} |\n    {run}{into}"
            else:
                before = self._result(number) if command == "ADD" else self._result()
                opened = word(f'{plugin.configuration[:-1]},"prevResult":')
                yield f"{{ printf %s {opened}; cat {word(before)}; echo '}}'; }} |\n    {run}{into}"

    def _kept(self) -> Path:
        return Path(self.folder) / f"{self.pod}.json"

    def _result(self, number: int | None = None) -> Path:
        """The last one, or the one after that many plugins."""
        return Path(self.folder) / (f"{self.pod}.result" if number is None else f"{self.pod}.result.{number}")

    def _checks(self) -> Path:
        return Path(self.folder) / f"{self.pod}.checks"

    def _record(self) -> str:
        return json.dumps(plain(self), ensure_ascii=True)

    def things(self) -> Iterator[Thing]:
        yield from device_things(self.inside, POD_DEVICE, POD_DEVICE_INDEX, up=True, ends=(self.namespace,))
        yield Thing(self.inside, ObjectKind.ATTACHMENT, attachment(self.pod), ends=(self.namespace,))
        yield Thing(self.namespace, ObjectKind.ATTACHMENT, attachment(self.pod), ends=(self.inside,))

    def undo(self) -> tuple[Object, ...]:
        return (PluginsDelete(attached=self),)

    def batch(self) -> Batch:
        return (_attach_in_turns,)

    def remember(self) -> None:
        """Before the first plugin: what taking the pod off takes. One that was attached before, whose node came back
        empty, is taken off first, as a container runtime does: its address would be taken."""
        if self._kept().exists():
            remove_together([self])
        with files.open_private(Path(self.folder)) as folder:
            folder.write(self._kept().name, self._record().encode())

    def keep(self, number: int, result: str) -> None:
        """What the plugin in that place answered."""
        with files.open_private(Path(self.folder)) as folder:
            for path in (self._result(number + 1), self._result()):
                folder.write(path.name, result.encode())

    def keep_refusals(self, refused: Mapping[str, str]) -> None:
        with files.open_private(Path(self.folder)) as folder:
            folder.write(self._checks().name, json.dumps(refused, ensure_ascii=True).encode())

    def refuse_address(self, result: str) -> None:
        """Raises StepFailed where the pod has another address than the lab says."""
        given = parse_result(result).addresses
        if self.address.ip not in {address.ip for address in given}:
            raise StepFailed(
                what=f"the plugins gave the pod {self.pod} another address than {self.address.ip}",
                cause=f"they gave {', '.join(map(str, given)) or 'none'}; labctl asks for it by CNI_ARGS (IP=…)",
                remedy='ipam: {type: host-local, subnet: "{{.PodCIDR}}"}',
            )

    def result(self) -> str:
        """What the last plugin answered; empty where nothing is kept."""
        try:
            return files.read_own(self._result()).decode("utf-8", errors="replace")
        except OSError:
            return ""

    def forget(self) -> None:
        """What is kept of it."""
        with contextlib.suppress(FileNotFoundError), files.open_own_folder(Path(self.folder)) as folder:
            for name in folder.names():
                if name in (self._kept().name, self._checks().name) or name.startswith(self._result().name):
                    folder.remove(name)

    def _started(self, command: str, plugin: Plugin, result: str) -> Process:
        from labctl.system.powers import Powers
        from labctl.system.process import Process  # not where a lab is only planned

        return Process(
            (str(Path(self.directory) / plugin.name),),
            namespace=netns.path_of(self.namespace),
            environment=self.environment(command),
            stdin=plugin.document(result).encode(),
            powers=Powers.NODE,
        )

    def _ended(self, command: str, plugin: Plugin, process: Process) -> str:
        """What it answered. Raises StepFailed with what it said."""
        done = process.wait(timeout_s=_TIMEOUT_S)
        if done.returncode == 0 and not done.timed_out and (command != "ADD" or object_of(done.text) is not None):
            return done.text
        said = _refusal(done.text) or _beginning(done.error_text) or _beginning(done.text)
        raise StepFailed(
            what=f"the CNI plugin {plugin.name} failed ({command}, pod {self.pod})",
            cause="it did not end within 30 s" if done.timed_out else said or f"it ended with status {done.returncode}",
            remedy="\n".join((self._exported(), *self._typed(command, [self.plugins.index(plugin)]))),
            key=plugin.key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One plugin for one pod, and the result that it is given."""

    pod: PluginsAdd
    number: int
    given: str

    @property
    def plugin(self) -> Plugin:
        return self.pod.plugins[self.number]


def _called(command: str, calls: Sequence[_Call]) -> list[str | LabError]:
    """What each answered, or how it failed, of calls that run at the same time: of different pods, or such that only
    look. The specification allows the first ("parallel operations for different containers"); plugins lock what they
    share."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(one.pod._started(command, one.plugin, one.given)) for one in calls]
        answers: list[str | LabError] = []
        for one, process in zip(calls, started, strict=True):
            try:
                answers.append(one.pod._ended(command, one.plugin, process))
            except LabError as failed:
                answers.append(failed)
    return answers


def _at_once() -> int:
    """How many pods. A plugin waits for the kernel about as long as it computes."""
    return max(4, 2 * (os.cpu_count() or 1))


def _attach_in_turns(pods: Sequence[PluginsAdd], context: BuildContext) -> None:
    most = _at_once()
    for first in range(0, len(pods), most):
        _attach(pods[first : first + most])


def _attach(pods: Sequence[PluginsAdd]) -> None:
    """The first plugin of every pod, then the second. Raises StepFailed, with what the plugin said."""
    for one in pods:
        with as_step_failed(one):
            one.remember()
    results = dict.fromkeys(pods, "")
    for number in range(max(len(one.plugins) for one in pods)):
        calls = [_Call(pod=one, number=number, given=results[one]) for one in pods if number < len(one.plugins)]
        for call, answer in zip(calls, _called("ADD", calls), strict=True):
            if isinstance(answer, LabError):
                raise answer
            results[call.pod] = answer
            call.pod.keep(number, answer)
    for one, result in results.items():
        one.refuse_address(result)
    for one, refused in refusals(results).items():
        one.keep_refusals(refused)


def refusals(results: Mapping[PluginsAdd, str]) -> dict[PluginsAdd, dict[str, str]]:
    """What each plugin that is asked (CHECK) has to say against what is there, by its place in the chain."""
    found: dict[PluginsAdd, dict[str, str]] = {one: {} for one in results}
    calls = [
        _Call(pod=one, number=number, given=result)
        for one, result in results.items()
        for number in range(len(one.plugins) if one.is_checked else 0)
    ]
    for call, answer in zip(calls, _called("CHECK", calls), strict=True):
        if isinstance(answer, LabError):
            found[call.pod][str(call.number)] = answer.cause
    return found


def remove_together(pods: Sequence[PluginsAdd]) -> tuple[str, ...]:
    """Has the plugins take the pods off, the last one first, and says what each that could not had to say. What is kept
    of them is removed whatever they said: they can be asked once."""
    refused: list[str] = []
    most = _at_once()
    for first in range(0, len(pods), most):
        some = pods[first : first + most]
        results = {one: one.result() for one in some}
        for back in range(1, max(len(one.plugins) for one in some) + 1):
            calls = [
                _Call(pod=one, number=len(one.plugins) - back, given=results[one])
                for one in some
                if back <= len(one.plugins)
            ]
            for answer in _called("DEL", calls):
                if isinstance(answer, LabError):
                    refused.append(f"{answer.what}: {answer.cause}")
        for one in some:
            one.forget()
    return tuple(refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsDelete(Object):
    """Takes a pod off again, by the same plugins in reverse."""

    attached: PluginsAdd

    def shell(self) -> str:
        return self.attached.typed_removal()

    def batch(self) -> Batch:
        return (_take_off,)


def _take_off(pods: Sequence[PluginsDelete], context: BuildContext) -> None:
    """Only where the pod's namespace was made here. What a plugin says is not raised: the namespaces go anyway."""
    made = [one.attached for one in pods if one.attached.inside in context.made]
    if made:
        remove_together(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDelete(Object):
    folder: str

    def shell(self) -> str:
        return f"rm -rf {word(self.folder)}"

    def make(self, context: BuildContext) -> None:
        files.remove_tree(Path(self.folder))


def remove_all(lab: str) -> tuple[str, ...]:
    """Takes every pod of a lab off that plugins attached, and says what those that could not had to say."""
    kept = tuple(kept_of(lab))
    return remove_together(kept) if kept else ()


def kept_of(lab: str) -> Iterator[PluginsAdd]:
    """What was kept of each pod of the lab, as labctl itself wrote it."""
    with contextlib.suppress(OSError), files.open_own_folder(state_folder(lab)) as folder:
        for name in sorted(folder.names()):
            if name.endswith(".json"):
                with contextlib.suppress(OSError, ValueError, UsageError):
                    data = parse_json(folder.read(name, owned=True).decode())
                    yield typed(PluginsAdd, data, where=str(state_folder(lab) / name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultInterface:
    name: str
    sandbox: str = ""
    """The path of the namespace that it is in; empty for the node's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a chain answered, as far as it can be held against devices."""

    interfaces: tuple[ResultInterface, ...] = ()
    addresses: tuple[IPv4Interface, ...] = ()


def parse_result(text: str) -> Result:
    """From a result as any version of the specification since 0.3.0 has it. What cannot be read is left out."""
    document = object_of(text) or {}
    interfaces, addresses = [], []
    for one in _objects(document.get("interfaces")):
        if isinstance(one.get("name"), str):
            interfaces.append(ResultInterface(name=one["name"], sandbox=str(one.get("sandbox") or "")))
    for one in _objects(document.get("ips")):
        with contextlib.suppress(ValueError):
            addresses.append(IPv4Interface(str(one.get("address"))))
    return Result(interfaces=tuple(interfaces), addresses=tuple(addresses))


def attachment(pod: str) -> str:
    return f"attachment of {pod}"


def _refusal(text: str) -> str:
    """What a plugin that failed said: code, message and details, as the specification has them; empty where it said
    nothing of that form."""
    document = object_of(text)
    if document is None or "msg" not in document:
        return ""
    details = f": {document['details']}" if document.get("details") else ""
    return f"code {document.get('code', 'unknown')}: {document['msg']}{details}"[:1000]


def _beginning(text: str) -> str:
    """The first line, which of a Go program that crashed has the reason; what follows are addresses."""
    return text.strip().partition("\n")[0][:300]


def object_of(text: str) -> dict[str, Any] | None:
    try:
        document = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
