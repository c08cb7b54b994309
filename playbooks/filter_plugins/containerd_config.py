"""The Ansible filter `containerd_config`: containerd's configuration with a cgroup driver, a sandbox image, and the
directory of the CNI plugins.

Works on the text, line by line, so that comments and order stay; it knows the tables of configuration versions 2
(containerd 1.x) and 3 (containerd 2.x). Pure.
"""

from __future__ import annotations

import re

# Per configuration version: the table (and key) of each setting.
RUNTIME = {
    2: 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc',
    3: "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc",
}
RUNC = "io.containerd.runc.v2"
SANDBOX = {
    2: ('plugins."io.containerd.grpc.v1.cri"', "sandbox_image"),
    3: ("plugins.'io.containerd.cri.v1.images'.pinned_images", "sandbox"),
}
CNI = {
    2: 'plugins."io.containerd.grpc.v1.cri".cni',
    3: "plugins.'io.containerd.cri.v1.runtime'.cni",
}
DEFAULT_CNI_DIRECTORY = "/opt/cni/bin"


def containerd_config(
    text: str, systemd_cgroup: bool | None = None, sandbox_image: str = "", cni_directory: str = ""
) -> str:
    """`text` with the settings that are given; what is None or empty stays as it is."""
    version = config_version(text)
    if systemd_cgroup is not None:
        # A table for runc replaces containerd's own, and without a type it cannot take options.
        if not has_setting(text, RUNTIME[version], "runtime_type"):
            text = with_setting(text, RUNTIME[version], "runtime_type", f'"{RUNC}"')
        text = with_setting(text, f"{RUNTIME[version]}.options", "SystemdCgroup", "true" if systemd_cgroup else "false")
    if sandbox_image:
        table, key = SANDBOX[version]
        text = with_setting(text, table, key, f'"{sandbox_image}"')
    if cni_directory and cni_directory not in cni_directories_of(text):
        # Since 2.1 the key may be a list.
        listed = re.search(r"^\s*bin_dirs\s*=", text, re.MULTILINE)
        key, value = ("bin_dirs", f'["{cni_directory}"]') if listed else ("bin_dir", f'"{cni_directory}"')
        text = with_setting(text, CNI[version], key, value)
    return without_disabled_cri(text)


def config_version(text: str) -> int:
    found = re.search(r"^\s*version\s*=\s*(\d+)", text, re.MULTILINE)
    return 3 if found and int(found[1]) >= 3 else 2


def cgroup_driver(text: str) -> str:
    """`systemd` or `cgroupfs` as containerd is configured for runc; empty where it does not say."""
    found = re.search(r"^\s*SystemdCgroup\s*=\s*(true|false)", text, re.MULTILINE)
    if not found:
        return ""
    return "systemd" if found[1] == "true" else "cgroupfs"


def sandbox_image_of(text: str) -> str:
    """The sandbox image as configured; empty where it does not say."""
    found = re.search(r"^\s*(?:sandbox_image|sandbox)\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def cni_directories_of(text: str) -> list[str]:
    """Where containerd looks for CNI plugins. Debian's package says /usr/lib/cni, where Cilium puts nothing."""
    found = re.search(r"^\s*bin_dirs?\s*=\s*(\[[^\]]*\]|['\"][^'\"]*['\"])", text, re.MULTILINE)
    named = re.findall(r"['\"]([^'\"]+)['\"]", found[1]) if found else []
    return named or [DEFAULT_CNI_DIRECTORY]


def with_setting(text: str, table: str, key: str, value: str) -> str:
    """`key = value` in `[table]`: replaced where it is, else put at the table's head, else the table is added."""
    lines = text.splitlines()
    if not lines:
        lines = [f"version = {config_version(text)}"]
    start, end = _span(lines, table)
    if start is None:
        return "\n".join([*lines, "", f"[{table}]", f"  {key} = {value}", ""])
    for number in range(start + 1, end):
        if re.match(rf"^\s*{re.escape(key)}\s*=", lines[number]):
            indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            lines[number] = f"{indent}{key} = {value}"
            break
    else:
        head = lines[start]
        indent = head[: len(head) - len(head.lstrip())]
        lines.insert(start + 1, f"{indent}  {key} = {value}")
    return "\n".join(lines) + "\n"


def has_setting(text: str, table: str, key: str) -> bool:
    lines = text.splitlines()
    start, end = _span(lines, table)
    return start is not None and any(re.match(rf"^\s*{re.escape(key)}\s*=", line) for line in lines[start + 1 : end])


def _span(lines: list[str], table: str) -> tuple[int | None, int]:
    """Where the table's head is, and where the next one is."""
    start = next((n for n, line in enumerate(lines) if _table_of(line) == _plain(table)), None)
    if start is None:
        return None, len(lines)
    return start, next((n for n in range(start + 1, len(lines)) if _table_of(lines[n]) is not None), len(lines))


def has_cri_disabled(text: str) -> bool:
    return re.search(r"^\s*disabled_plugins\s*=.*['\"]cri['\"]", text, re.MULTILINE) is not None


def without_disabled_cri(text: str) -> str:
    """Docker's packages ship containerd with its CRI turned off; the kubelet needs it."""
    return re.sub(
        r"^(\s*disabled_plugins\s*=\s*\[)([^\]]*)(\])",
        lambda m: (
            m[1] + ", ".join(p for p in map(str.strip, m[2].split(",")) if p.strip("'\"") not in ("cri", "")) + m[3]
        ),
        text,
        flags=re.MULTILINE,
    )


def _table_of(line: str) -> str | None:
    found = re.match(r"^\s*\[\s*(.+?)\s*\]\s*(#.*)?$", line)
    return _plain(found[1]) if found and not line.lstrip().startswith("[[") else None


def _plain(table: str) -> str:
    return table.replace("'", '"').replace(" ", "")


class FilterModule:
    """What Ansible looks for."""

    def filters(self):  # type: ignore[no-untyped-def]
        return {
            "containerd_config": containerd_config,
            "containerd_cgroup_driver": cgroup_driver,
            "containerd_sandbox_image": sandbox_image_of,
            "containerd_has_cri_disabled": has_cri_disabled,
            "containerd_cni_directories": cni_directories_of,
        }
