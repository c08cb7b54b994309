"""What `down` takes away of a machine's kernel, on a real kernel: rules and chains of both back ends, sandboxes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "playbooks" / "files"
NAMES = ("iptables", "ip6tables")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("iptables-legacy-save") is None, reason="needs iptables-legacy: iptables"),
]
STATE = """
for v in legacy nft; do for f in iptables ip6tables; do
    n=$(echo $f | sed s/tables/_tables_names/)
    [ $v = legacy ] && [ -z "$(cat /proc/net/$n)" ] && continue
    echo "$f $v"; $f-$v-save 2>/dev/null | grep -v '^#' | sed 's/ \\[.*//'
done; done; nft list ruleset 2>/dev/null
"""
CILIUMS = """
for t in filter nat mangle raw; do
    $i -t $t -N CILIUM_PRE; $i -t $t -N KUBE-MARK
    $i -t $t -A OUTPUT -m comment --comment 'cilium-feeder: CILIUM_PRE' -j CILIUM_PRE
    $i -t $t -A CILIUM_PRE -j RETURN
done
"""


def in_namespace(script: str) -> str:
    done = subprocess.run(
        ("unshare", "--net", "--mount", "sh", "-eu", "-c", script), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("has_own", [False, True])
def test_rules_and_chains_of_cilium_and_the_kubelet_go_and_others_stay(
    back_end: str, family: str, has_own: bool
) -> None:
    iptables = f"{family}-{back_end}"
    own = f"{iptables} -N MINE; {iptables} -A MINE -j ACCEPT; {iptables} -A INPUT -i lo -j MINE" if has_own else ""
    # The legacy tables of a namespace stay once they were asked for: they are empty before, as on a machine in use.
    tables = f"for t in filter nat mangle raw; do {iptables} -t $t -S >/dev/null; done" if back_end == "legacy" else ""
    said = in_namespace(
        f"{tables}\n{own}\nbefore=$({STATE})\ni={iptables}\n{CILIUMS}\nmiddle=$({STATE})\n"
        f"sh {FILES / 'leftovers.sh'} 10.244.0.0/16 >/tmp/labctl-said.$$\nafter=$({STATE})\n"
        'printf "%s\\0%s\\0%s" "$before" "$middle" "$after"; rm /tmp/labctl-said.$$'
    )
    before, middle, after = said.split("\0")
    assert "CILIUM_PRE" in middle
    assert "KUBE-MARK" in middle
    assert "CILIUM_" not in after
    assert after == before


def test_tables_that_do_not_exist_are_not_made_by_looking() -> None:
    script = f"sh {FILES / 'leftovers.sh'} 10.244.0.0/16; cat /proc/net/ip_tables_names; nft list tables"
    assert in_namespace(script).strip() == ""


CRICTL = """#!/usr/bin/python3
import json, os, sys, time
words = sys.argv[1:]
limit_s = 2.0
while words and words[0].startswith("--"):
    name, value = words.pop(0), words.pop(0)
    if name == "--timeout":
        limit_s = float(value.rstrip("s"))
path = os.environ["PODS"]
pods = json.load(open(path))
command, pod = words[0], words[-1]
with open(path + ".said", "a") as said:
    said.write(" ".join(words) + "\\n")
if command == "pods":
    print("\\n".join(pods))
elif command == "inspectp":
    print(pods[pod]["network"])
elif command == "stopp":
    time.sleep(0.01)
    if pods[pod]["takes_s"] > limit_s:
        sys.exit("context deadline exceeded")
    pods[pod]["stopped"] = True
elif command == "rmp":
    if not pods[pod].get("stopped") and "--force" not in words:
        sys.exit("pod sandbox is not stopped")
    if pods[pod]["takes_s"] > limit_s:
        sys.exit("context deadline exceeded")
    del pods[pod]
json.dump(pods, open(path, "w"))
"""


def ended(tmp_path: Path, which: str, takes_s: float) -> tuple[list[str], str]:
    """The pods that are left, and what the script said."""
    import json

    for name, text in (("crictl", CRICTL), ("systemctl", "#!/bin/sh\nexit 0\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    pods = {
        "a1": {"network": "POD", "takes_s": takes_s}, "b2": {"network": "NODE", "takes_s": takes_s},
        "c3": {"network": "POD", "takes_s": 0.1},
    }  # fmt: skip
    (tmp_path / "pods").write_text(json.dumps(pods))
    world = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PODS": str(tmp_path / "pods")}
    argv = ("sh", str(FILES / "sandboxes.sh"), "unix:///run/x.sock", which)
    done = subprocess.run(argv, env=world, capture_output=True, text=True, check=True, timeout=120)
    return sorted(json.loads((tmp_path / "pods").read_text())), done.stdout


@pytest.mark.parametrize("takes_s", [0.5, 5.0, 45.0])
def test_sandboxes_that_are_slow_to_end_are_ended(tmp_path: Path, takes_s: float) -> None:
    left, said = ended(tmp_path, "networked", takes_s)
    assert left == ["b2"]
    assert said.splitlines() == ["ended sandbox a1", "ended sandbox c3"]
    assert ended(tmp_path, "all", takes_s)[0] == []
