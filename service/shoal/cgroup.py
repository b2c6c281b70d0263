"""The limits of the container that this process runs in: memory and cores of its control groups.

A group may have a limit of its own, and so may each of its parents: the tightest counts. Reads
cgroup v2 and v1, nested and namespaced; a parent outside of the mounted tree cannot be seen (but
for the memory of v1, where the kernel tells the tightest of all). Linux only: elsewhere nothing is
found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_NO_LIMIT_BYTES = 1 << 60
"""cgroup v1 says "unlimited" with a number near 2^63."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The limit of one group, and what counts against it, in bytes."""

    limit: int
    used: int
    """Without the pages of files that the kernel would drop first."""

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class _Group:
    folder: Path
    version: int


def memory_limits(root: Path = Path("/")) -> list[Memory]:
    """Of every group around this process that has a limit, innermost first. `root`: where the
    system's files are."""
    return [found for group in _groups("memory", root) if (found := _memory(group)) is not None]


def tightest_memory(root: Path = Path("/")) -> Memory | None:
    """The group with the least memory left; None without a limit."""
    return min(memory_limits(root), key=lambda memory: memory.left, default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process may use; None without a limit."""
    return min(
        (quota for group in _groups("cpu", root) if (quota := _quota(group)) is not None),
        default=None,
    )


def num_oom_kills(root: Path = Path("/")) -> int:
    """Processes that the kernel killed because a group around this one was out of memory."""
    events = {2: "memory.events", 1: "memory.oom_control"}
    counts = (_table(g.folder / events[g.version]).get("oom_kill") for g in _groups("memory", root))
    return max((count for count in counts if count is not None), default=0)


def _groups(controller: str, root: Path) -> Iterator[_Group]:
    """The group of this process and its parents, as far up as they are mounted."""
    paths = {1: None, 2: None} | dict(_own_paths(controller, root))
    for version, mount_root, mount_point in _mounts(controller, root):
        own = paths[version]
        if own is None:
            continue
        try:
            inside = PurePosixPath(own).relative_to(mount_root)
        except ValueError:  # a namespace's view of a group outside of it
            inside = PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        for path in (inside, *inside.parents) if inside.parts else (inside,):
            yield _Group(mount_point / path, version)


def _own_paths(controller: str, root: Path) -> Iterator[tuple[int, str]]:
    """(version of the hierarchy, this process's group in it)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path


def _mounts(controller: str, root: Path) -> Iterator[tuple[int, str, Path]]:
    """(version, group at the top of the mount, folder) of the hierarchies."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        folder = root / _unescaped(fields[4]).lstrip("/")
        if kinds[0] == "cgroup2":
            yield 2, fields[3], folder
        elif kinds[0] == "cgroup" and controller in kinds[2].split(","):
            yield 1, fields[3], folder


def _unescaped(path: str) -> str:
    """mountinfo writes blanks of a path as octal numbers."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _memory(group: _Group) -> Memory | None:
    folder = group.folder
    stat = _table(folder / "memory.stat")
    if group.version == 2:
        limits = [_number(folder / "memory.max"), _number(folder / "memory.high")]
        used, droppable = _number(folder / "memory.current"), stat.get("inactive_file", 0)
    else:
        limits = [_number(folder / "memory.limit_in_bytes"), stat.get("hierarchical_memory_limit")]
        used, droppable = (
            _number(folder / "memory.usage_in_bytes"),
            stat.get("total_inactive_file", 0),
        )
    limit = min((number for number in limits if number is not None), default=_NO_LIMIT_BYTES)
    if limit >= _NO_LIMIT_BYTES:
        return None
    return Memory(limit, max(0, (used or 0) - droppable))


def _quota(group: _Group) -> float | None:
    if group.version == 2:
        quota, _, period = _read(group.folder / "cpu.max").partition(" ")
    else:
        quota = _read(group.folder / "cpu.cfs_quota_us")
        period = _read(group.folder / "cpu.cfs_period_us")
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
