"""The file with the lab's facts: an object of the lab like the others, though in no namespace. Stands alone as one kind
of object; what the file says is `providers.netns.record`'s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labctl.planning.shell import word, written
from labctl.providers.netns.kinds.base import BuildContext, Kind, Object
from labctl.system import files


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWrite(Object):
    """The lab's facts in a file, for `labctl status`; written last, so its presence says that the lab is whole."""

    path: Path
    document: str

    def shell(self) -> str:
        return "\n".join((f"mkdir -p {word(self.path.parent)}", written(self.path, f"{self.document}\n")))

    def undo(self) -> tuple[Object, ...]:
        return (RecordDelete(path=self.path),)

    def make(self, context: BuildContext) -> None:
        with files.open_private(self.path.parent) as folder:
            folder.write(self.path.name, self.document.encode() + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDelete(Object):
    path: Path

    def shell(self) -> str:
        return f"rm -rf {word(self.path.parent)}"

    def make(self, context: BuildContext) -> None:
        files.remove_tree(self.path.parent)


RECORDS = Kind(name="record", objects=(RecordWrite, RecordDelete))
