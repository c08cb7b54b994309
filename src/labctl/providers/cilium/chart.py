"""What a Cilium chart accepts, read from the chart itself: its version, its Kubernetes range, every value it knows.

Helm takes any key and ignores those that no template reads. A key is known here when `values.yaml` has it or a
template names it. Reads a folder or a `.tgz`; fetches nothing.
"""

from __future__ import annotations

import difflib
import itertools
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from labctl.errors import UsageError
from labctl.model.versions import Version
from labctl.system.archives import content_of, open_archive
from labctl.system.files import read_file
from labctl.values import dataclass

_REFERENCE = re.compile(r"\.Values\.([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)")
_HAS_KEY = re.compile(r"hasKey \(?\s*\.Values\.?([A-Za-z0-9_.]*)\s*\)? \"([A-Za-z0-9_]+)\"")
_MOST_BYTE = 32 << 20
"""Cilium's chart unpacks to 2 MB."""
_MOST_PATHS = 50_000
_OPEN = ("nodeSelector", "Labels", "labels", "Annotations", "annotations", "affinity", "resources", "updateStrategy")
"""Mappings whose keys Kubernetes defines, not the chart."""
_COMMENTED = re.compile(r"^#\s?([A-Za-z][A-Za-z0-9]*):(?:\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`values` are the chart's defaults, `named` the dotted paths that its templates (or comments) mention."""

    name: str
    version: Version
    kube_version: str
    values: Mapping[str, object]
    named: frozenset[str]

    def knows(self, path: str) -> bool:
        """True when a value at that path can have an effect.

        Below an empty mapping, a list or null of `values.yaml` every key is accepted: the chart passes it on whole. A
        template that names a mapping as a whole (`.Values.bpf`) does not add keys to it.
        """
        if any(path == name or name.startswith(f"{path}.") for name in self.named):
            return True
        here: object = self.values
        walked = ""
        for key in path.split("."):
            if isinstance(here, Mapping) and key in here:
                here = here[key]
            elif walked and (not here or isinstance(here, list) or walked.endswith(_OPEN)):
                return True
            else:
                return walked in self.named and not isinstance(here, Mapping)
            walked = f"{walked}.{key}" if walked else key
        return True

    def nearest(self, path: str) -> str:
        """The known path that is most like this one, or an empty string."""
        # An alias in the YAML may stand for any number of keys.
        known = sorted({*self.named, *itertools.islice(_paths(self.values), _MOST_PATHS)})
        return next(iter(difflib.get_close_matches(path, known, n=1, cutoff=0.75)), "")

    def minimum_kubernetes(self) -> Version | None:
        """The lower bound of `kubeVersion` (`>= 1.21.0-0`), or None where there is none."""
        match = re.search(r">=\s*(\d+\.\d+(?:\.\d+)?)", self.kube_version)
        return Version.parse(match.group(1)) if match else None


def _paths(values: Mapping[str, object], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def read_chart(place: Path) -> Chart:
    """Raises UsageError when there is no Helm chart at that place."""
    try:
        files = _from_folder(place) if place.is_dir() else _from_archive(place)
        return parse_chart(files, str(place))
    except (OSError, EOFError, zlib.error, tarfile.TarError, RecursionError, yaml.YAMLError, ValueError) as failed:
        raise UsageError(
            what=f"cannot read the chart {place}",
            cause=str(failed),
            remedy="give cilium.chart a folder with Chart.yaml or a .tgz made by: helm pull cilium/cilium --version V",
        ) from failed


def parse_chart(files: Mapping[str, str], place: str) -> Chart:
    """From the chart's own files, by path relative to its top. Raises UsageError, ValueError, YAMLError. Pure."""
    if "Chart.yaml" not in files:
        raise UsageError(
            what=f"{place} is not a Helm chart: it has no Chart.yaml",
            remedy="give cilium.chart the folder that Chart.yaml is in, or the .tgz",
        )
    values_text = files.get("values.yaml", "")
    about, values = yaml.safe_load(files["Chart.yaml"]), yaml.safe_load(values_text) or {}
    if not isinstance(about, Mapping) or not isinstance(values, Mapping):
        raise ValueError("its Chart.yaml or values.yaml is not a mapping")
    named = {match for text in files.values() for match in _REFERENCE.findall(text)}
    for text in files.values():
        named.update(f"{parent}.{key}" if parent else key for parent, key in _HAS_KEY.findall(text))
    named.update(_COMMENTED.findall(values_text))
    return Chart(
        name=str(about.get("name", "")),
        version=Version.parse(str(about.get("version", "0.0.0"))),
        kube_version=str(about.get("kubeVersion", "")),
        values=values,
        named=frozenset(named),
    )


def _is_wanted(name: str) -> bool:
    return name in ("Chart.yaml", "values.yaml") or (
        name.startswith("templates/") and name.endswith((".yaml", ".tpl", ".txt"))
    )


def _from_folder(place: Path) -> dict[str, str]:
    files = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        # helm follows it, and a template could put any file of this host into what is applied.
        if path.is_symlink():
            raise OSError(f"it contains a symbolic link: {name}")
        if path.is_file() and _is_wanted(name):
            files[name] = read_file(path, most_byte=_MOST_BYTE, follow=True).decode("utf-8", errors="replace")
    return files


def _from_archive(place: Path) -> dict[str, str]:
    files = {}
    with open_archive(place, most_byte=_MOST_BYTE) as archive:
        while member := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # which would keep every one of them
            _, _, name = member.name.partition("/")
            if member.isfile() and _is_wanted(name):
                files[name] = content_of(archive, member).decode("utf-8", errors="replace")
    return files
