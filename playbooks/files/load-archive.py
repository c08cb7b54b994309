"""Gives an image archive to containerd where the machine lacks any of its images, and pins them.

    load-archive.py SOCKET ARCHIVE [IMAGE...]

With names of images all of them are there already, and the archive is not: they are only pinned.
containerd itself is asked what it has: the kubelet removes images when the disk is full, the pause image among them, of
which a note of what was loaded once would say nothing. The sum beside the archive only tells that its content changed
meanwhile, and stands alone for an archive without names. Prints a line for what was loaded.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

PINNED = "io.cri-containerd.pinned=pinned"


def full(name):
    """As containerd calls it: `alpine:3` is `docker.io/library/alpine:3`."""
    first, slash, _ = name.partition("/")
    if not slash:
        return "docker.io/library/" + name
    return name if "." in first or ":" in first or first == "localhost" else "docker.io/" + name


def names_in(archive):
    """The names of its images, of docker's manifest or of the OCI index."""
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.lstrip("./") not in ("manifest.json", "index.json") or member.size > 16 << 20:
                continue
            content = json.loads(tar.extractfile(member).read().decode())
            if isinstance(content, list):
                found += [name for image in content for name in image.get("RepoTags") or ()]
            else:
                marks = [one.get("annotations") or {} for one in content.get("manifests") or ()]
                found += [one["io.containerd.image.name"] for one in marks if "io.containerd.image.name" in one]
    return sorted({full(name) for name in found})


def sum_of(path):
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def main(socket, archive, *there):
    def ctr(*words, **options):
        argv = ("ctr", "--address", socket, "--namespace", "k8s.io", "images", *words)
        return subprocess.run(argv, stdout=subprocess.PIPE, check=False, **options)

    if there:
        for name in there:
            ctr("label", name, PINNED, stderr=subprocess.DEVNULL)
        return 0
    # Whole and unpacked; a ctr that does not know this question lists the names at least.
    checked = ctr("check", "--quiet", stderr=subprocess.DEVNULL)
    if checked.returncode != 0:
        checked = ctr("list", "-q")
        if checked.returncode != 0:
            return checked.returncode
    there = set(checked.stdout.decode().split())
    names, now, note = names_in(archive), sum_of(archive), Path(archive + ".loaded")
    before = ""
    if note.exists():
        before = note.read_text().split()[:1]
    missing = [name for name in names if name not in there]
    if missing or before != [now]:
        loaded = ctr("import", archive)
        if loaded.returncode != 0:
            return loaded.returncode
        note.write_text(now + "  " + archive + "\n")
        sys.stdout.write(
            "loaded " + archive + (" (missing: " + ", ".join(missing) + ")" if missing and before else "") + "\n"
        )
    for name in names:
        # The kubelet's garbage collection leaves pinned images alone (containerd 1.7 and later tell it).
        ctr("label", name, PINNED, stderr=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
