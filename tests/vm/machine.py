"""One virtual machine: a kernel with this host's own files, read only, and a job; what the job wrote comes back.

The guest sees the host's root over 9p and writes into memory: the tree, its .venv and the tools are those of the host,
the kernel alone is another one. Without KVM it is emulated, and its times mean nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels import HERE, CannotBoot, Kernel, make_initrd

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 3072
KERNEL_LINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "random.trust_cpu=on audit=0 apparmor=0 lsm= selinux=0"
)
"""Nothing that matters to a datapath: quieter, and faster where it is emulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """`status` is the job's own, None when the machine did not come so far. `log` is what the job printed, `console`
    what the kernel and the first processes did; `out` the folder of what the job wrote."""

    status: int | None
    log: str
    console: str
    out: Path


def run(kernel: Kernel, argv: Sequence[str], out: Path, *, timeout_s: float) -> Ran:
    """Boots, runs argv as root in `/`, and switches off. Raises CannotBoot when the job was not even begun."""
    if shutil.which(QEMU) is None:
        raise CannotBoot(f"{QEMU} is not here: setup/prepare.sh vm")
    (out / "argv").write_text("".join(f"{word}\n" for word in argv))
    (out / "modules").write_text(f"{kernel.folder / 'modules'}\n")
    shutil.copy(HERE / "start.sh", out)
    initrd = make_initrd(kernel, out)
    command = command_line(kernel, initrd, out, has_kvm=has_kvm())
    said = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        said = done.stderr.strip()
    except subprocess.TimeoutExpired:
        said = f"it was ended after {timeout_s:g} s"
    console, log, status = _text(out / "console"), _text(out / "log"), _text(out / "status").strip()
    if not re.search(r"^UP ", console, re.MULTILINE):
        last = "\n".join(console.splitlines()[-12:])
        raise CannotBoot(f"{kernel.package} does not come up: {said or 'it ended by itself'}\n{last}")
    return Ran(status=int(status) if status else None, log=f"{log}{said}", console=console, out=out)


def command_line(kernel: Kernel, initrd: Path, out: Path, *, has_kvm: bool) -> tuple[str, ...]:
    shared = (("/", "host", ",readonly=on"), (_escaped(out), "out", ""))
    return (
        *("nice", "-n", "10", QEMU, "-machine", "q35", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-accel", "kvm" if has_kvm else "tcg,thread=multi,tb-size=768"),
        *("-cpu", "host" if has_kvm else "max,la57=off", "-smp", "2", "-m", str(MEMORY_MIB), "-display", "none"),
        *("-kernel", str(kernel.folder / "vmlinuz"), "-initrd", str(initrd), "-append", KERNEL_LINE),
        *("-serial", f"file:{_escaped(out / 'console')}", "-device", "virtio-rng-pci"),
        *(
            word
            for path, tag, more in shared
            for word in ("-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}")
        ),
    )


def _escaped(path: Path) -> str:
    """As QEMU wants a value that may have commas."""
    return str(path).replace(",", ",,")


def has_kvm() -> bool:
    """/dev/kvm alone says little: it also stands on machines whose processor has no virtualisation."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and flags is not None and bool({"vmx", "svm"} & {*flags[1].split()})


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
