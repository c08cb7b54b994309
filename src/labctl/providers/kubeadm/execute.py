"""Carries out the actions of a kubeadm plan: Ansible for configuration, SSH for the rest, helm on this host.

The kubeconfig that a machine hands over, not trusted as it is: kubectl runs programs that such a file names
(`exec`, `auth-provider`), reads the files that it names, and uses its proxy. Nothing of that is copied. Pure.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from labctl.errors import HostLacks, LabError, MeasureFailed, StepFailed
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.model.result import Completed
from labctl.providers.base import Tell, untold
from labctl.providers.cilium.chart import read_chart
from labctl.providers.cilium.commands import WriteFile, errors_in, joined, shown, write_private
from labctl.providers.cilium.images import argv_images, digests_in, lacking, parse_images
from labctl.providers.cilium.rendered import parse_rendered, refuse_differences, refuse_wrong_chart
from labctl.providers.cilium.settings import write_record
from labctl.providers.cilium.waiting import Usual, WaitForPods, Waits
from labctl.providers.kubeadm.actions import (
    FetchKubeconfig,
    MakeMachines,
    Play,
    RemovePods,
    RenderCilium,
    Survey,
)
from labctl.providers.kubeadm.failures import TaskFailure, recognise, step_failed, vagrant_remedy
from labctl.providers.kubeadm.images import archived
from labctl.providers.kubeadm.inventory import inventory, join_documents
from labctl.providers.kubeadm.own_files import require_packages
from labctl.providers.kubeadm.plan import play_variables
from labctl.providers.kubeadm.preflight import refuse_obstacles
from labctl.providers.kubeadm.runner import AnsibleRunner, playbooks_directory
from labctl.providers.kubeadm.settings import ADMIN_CONF, KubeadmSettings
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.providers.kubeadm.survey import MachineFacts, survey
from labctl.system import process
from labctl.system.files import make_own_folder

_HELM_S = 120.0
_PULL_S = 600.0
_VAGRANT_S = 3600.0
_ASK_S = 30.0
INSTALL_HELM = "https://helm.sh/docs/intro/install/"


class KubeadmExecutor:
    """`providers.base.Executor` for one lab. `fleet` and `runner` are opened and closed by the provider."""

    def __init__(
        self,
        settings: KubeadmSettings,
        fleet: Fleet,
        runner: AnsibleRunner,
        *,
        tell: Tell = untold,
        usual: Usual | None = None,
    ) -> None:
        self._settings, self._fleet, self._runner = settings, fleet, runner
        self._tell, self._usual = tell, usual or Usual(None)
        self._seen: tuple[MachineFacts, ...] = ()

    def execute(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Survey():
                    self._survey()
                case MakeMachines():
                    make_machines(action, self._settings)
                case RenderCilium():
                    render(action)
                case WriteFile():
                    write_private(action.path, action.text)
                case Play():
                    self._play(action)
                case FetchKubeconfig():
                    self._fetch(action)
                case RemovePods():
                    self._kubectl(action.argv)
                case _:
                    raise TypeError(f"the kubeadm provider has no action {type(action).__name__}")

    def finish(self, lab: Lab) -> None:
        write_record(self._settings.files.record, lab)

    def _survey(self) -> None:
        settings = self._settings
        # What would be sent is looked at first: a file that is neither may be a secret of its owner.
        for path in settings.kubeadm.images.archives:
            archived(Path(path).expanduser())
        require_packages(settings.kubeadm)
        self._seen = survey(self._fleet, [machine.node for machine in settings.machines])
        refuse_obstacles(settings, self._seen)
        self._fleet.end_strays()
        # From here on machines are changed: which ones is known even if this process dies.
        write_private(settings.files.state, state_text(settings, self._family))

    @property
    def _family(self) -> str:
        return self._seen[0].family if self._seen else "Debian"

    def _play(self, action: Play) -> None:
        settings = self._settings
        documents = join_documents(settings.kubeadm, settings.machines)
        variables = play_variables(settings, self._family)
        variables["labctl"]["kubectl_here"] = process.find_program("kubectl") or ""
        if action.playbook == "prepare":
            variables["labctl"]["archives"] = self._archives(variables["labctl"]["archives"])
        # Waiting is done here, where what is seen meanwhile can be told; a playbook run by hand waits by itself.
        variables["labctl"]["wait_s"] = 0
        self._runner.play(action.playbook, inventory(settings.machines, documents), variables)
        for wait in action.waits:
            if isinstance(wait, WaitForPods):
                self._waits.pods(wait)
            else:
                self._waits.nodes(wait)

    def _archives(self, archives: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
        """Each archive with its images, and the machines that have all of them: nothing is copied there. All machines
        are asked at once; one without crictl or containerd has none yet."""
        if not archives:
            return []

        def ask(commands: MachineCommands) -> Mapping[str, frozenset[str]]:
            try:
                return parse_images(commands.run(argv_images(), timeout_s=_ASK_S).text)
            except LabError:
                return {}

        with ThreadPoolExecutor(max_workers=16) as pool:
            have = {one.machine.node: pool.submit(ask, one) for one in self._fleet}
        known: list[dict[str, object]] = []
        for archive in archives:
            wanted = digests_in(Path(archive["path"]).expanduser())
            there = [node for node, asked in have.items() if wanted and not lacking(wanted, asked.result())]
            known.append({**archive, "images": sorted(wanted), "there": there})
        return known

    @property
    def _waits(self) -> Waits:
        """On the control plane: the API server need not be reachable from this host."""
        place = self._settings.control_plane

        def remedy(cause: str) -> str:
            found = recognise(TaskFailure(node=place.node, task="", message=cause))
            return step_failed([TaskFailure(node=place.node, task="", message=cause)], [place]).remedy if found else ""

        def failed(asked: Completed) -> StepFailed:
            said = joined(errors_in(asked.error_text)) or asked.error_text.strip()[-300:]
            by_hand = shown(self._fleet.control_plane, asked.argv)
            return StepFailed(what=f"{place.node}: kubectl does not answer", cause=said, remedy=by_hand)

        return Waits(self._fleet.control_plane, tell=self._tell, usual=self._usual, remedy=remedy, failed=failed)

    def _fetch(self, action: FetchKubeconfig) -> None:
        try:
            content = self._fleet.control_plane.read_file(ADMIN_CONF)
        except MeasureFailed as failed:
            raise StepFailed(what=failed.what, cause=failed.cause, remedy="labctl up again") from failed
        try:
            text = plain_kubeconfig(content)
        except ValueError as wrong:
            raise StepFailed(
                what=f"{self._settings.control_plane.node}: {ADMIN_CONF} is rejected",
                cause=str(wrong),
                remedy=f"ssh {action.place} sudo cat {ADMIN_CONF}",
            ) from wrong
        write_private(action.path, text)

    def _kubectl(self, argv: tuple[str, ...]) -> None:
        done = self._fleet.control_plane.run(argv, timeout_s=180.0)
        if done.returncode != 0:
            raise StepFailed(
                what=f"{self._settings.control_plane.node}: {' '.join(argv[:1])} failed",
                cause=joined(errors_in(done.error_text)) or done.error_text.strip()[-300:],
                remedy=shown(self._fleet.control_plane, argv),
            )


def state_text(settings: KubeadmSettings, family: str) -> str:
    """Everything that `down` needs to know, without any scenario file. Holds no secret."""
    lab = settings.lab
    return json.dumps(
        {
            "lab": lab.name,
            "scenario": lab.scenario,
            "digest": lab.digest,
            "machineSource": str(settings.kubeadm.machines),
            "vagrantProvider": str(settings.kubeadm.vagrant.provider),
            "machines": [machine.record() for machine in settings.machines],
            "variables": play_variables(settings, family),
        },
        indent=1,
    )


def render(action: RenderCilium) -> None:
    """Raises UsageError when the chart does not say what was meant, StepFailed when helm fails."""
    if process.find_program("helm") is None:
        raise HostLacks(
            what="helm is not on this host", cause="it renders Cilium's chart on this host, not on the machines",
            remedy=INSTALL_HELM,
        )  # fmt: skip
    write_private(action.values_path, action.values)
    if action.pull and not Path(action.chart).exists():
        make_own_folder(Path(action.chart).parent)
        _helm(action.pull, _PULL_S, "cilium.chart: PATH of a local .tgz, if this host cannot reach the repository")
    refuse_wrong_chart(read_chart(Path(action.chart)), action.chart, action.wanted, action.user_values)
    text = _helm(action.argv, _HELM_S, "helm show chart CHART")
    refuse_differences(parse_rendered(text), action.wanted, action.user_values)
    write_private(action.output, text)


def _helm(argv: tuple[str, ...], timeout_s: float, remedy: str) -> str:
    done = process.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode != 0:
        raise StepFailed(
            what=f"helm {argv[1]} did not end in {timeout_s:g} s" if done.timed_out else f"helm {argv[1]} failed",
            cause=joined(errors_in(done.error_text)) or done.error_text.strip()[-400:],
            remedy=remedy,
        )
    return done.text


def vagrant(argv: Sequence[str], environment: dict[str, str]) -> None:
    """Runs Vagrant where labctl's Vagrantfile is. Its output is not shown; errors are reported."""
    if process.find_program("vagrant") is None:
        raise HostLacks(
            what="vagrant is not on this host", remedy="apt-get install vagrant vagrant-libvirt, or machines: hosts"
        )
    done = process.run(argv, timeout_s=_VAGRANT_S, directory=playbooks_directory().parent, environment=environment)
    if done.timed_out:
        raise StepFailed(what=f"{shlex.join(argv)} did not end in {_VAGRANT_S:g} s", remedy="vagrant status")
    if done.returncode != 0:
        lines = [line for line in done.error_text.splitlines() if line.strip()]
        raise StepFailed(
            what=f"{shlex.join(argv)} failed",
            cause="; ".join(lines[:3])[:400],
            remedy=vagrant_remedy(
                done.error_text,
                f"cd {shlex.quote(str(playbooks_directory().parent))}\n{shlex.join(argv)}",
            ),
        )


def make_machines(action: MakeMachines, settings: KubeadmSettings) -> None:
    """Makes the VMs and records their host keys: on a private network of this host, first sight is trusted."""
    vagrant(action.argv, action.environment)
    keys = []
    for machine in settings.machines:
        done = process.run(("ssh-keyscan", "-T", "10", "--", machine.address), timeout_s=30.0)
        if done.returncode != 0 or not done.stdout:
            raise StepFailed(
                what=f"{machine.node} ({machine.address}) offers no SSH host key", cause=done.error_text.strip()[-200:],
                remedy=f"vagrant ssh {machine.node}",
            )  # fmt: skip
        keys.append(done.text)
    write_private(settings.files.known_hosts, "".join(keys))


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
        raise ValueError("it is not in the form that kubeadm writes") from wrong
    return yaml.safe_dump(document, sort_keys=False)


def _data(part: Mapping[str, Any], key: str) -> str:
    value = part[key]
    if not isinstance(value, str):
        raise TypeError(value)
    base64.b64decode(value, validate=True)
    return value
