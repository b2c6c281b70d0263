"""Limits of control groups, read from made-up systems."""

from pathlib import Path

import pytest

from shoal import cgroup
from shoal.commands import machine

MIB = 1 << 20
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1_MEMORY = "35 31 0:32 {root} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
V1_CPU = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
UNLIMITED = "9223372036854771712"


def system(root: Path, own: str, mounts: str, files: dict[str, str]) -> Path:
    """A folder with the files of such a system; `files` below /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": own, "proc/self/mountinfo": mounts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup.memory_limits(tmp_path) == []
    assert cgroup.tightest_memory(tmp_path) is None
    assert cgroup.cpu_quota(tmp_path) is None
    assert cgroup.num_oom_kills(tmp_path) == 0


def test_a_container_with_a_namespace_sees_its_limit_at_the_mount(tmp_path: Path) -> None:
    files = {
        "memory.max": str(200 * MIB), "memory.current": str(120 * MIB), "memory.high": "max",
        "memory.stat": f"anon 5\ninactive_file {20 * MIB}", "cpu.max": "150000 100000",
        "memory.events": "low 0\noom 2\noom_kill 1",
    }  # fmt: skip
    root = system(tmp_path, "0::/", V2, files)
    assert cgroup.memory_limits(root) == [cgroup.Memory(200 * MIB, 100 * MIB)]
    assert cgroup.cpu_quota(root) == 1.5
    assert cgroup.num_oom_kills(root) == 1


def test_the_tightest_of_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    files = {
        "app.slice/job.scope/memory.max": str(500 * MIB),
        "app.slice/job.scope/memory.current": str(10 * MIB),
        "app.slice/memory.max": str(600 * MIB),
        "app.slice/memory.current": str(400 * MIB),
        "app.slice/job.scope/cpu.max": "max 100000",
        "app.slice/cpu.max": "250000 100000",
        "other.slice/cpu.max": "10000 100000",
    }
    root = system(tmp_path, "0::/app.slice/job.scope", V2, files)
    assert [memory.left // MIB for memory in cgroup.memory_limits(root)] == [490, 200]
    tightest = cgroup.tightest_memory(root)
    assert tightest is not None
    assert tightest.limit == 600 * MIB
    assert cgroup.cpu_quota(root) == 2.5


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    files = {"memory.max": "max", "memory.high": str(64 * MIB), "memory.current": "0"}
    assert cgroup.memory_limits(system(tmp_path, "0::/", V2, files)) == [cgroup.Memory(64 * MIB, 0)]


@pytest.mark.parametrize("mount_root", ["/", "/docker/abc"])
def test_v1_with_the_hosts_paths(tmp_path: Path, mount_root: str) -> None:
    """In an old container the own path is the host's, and the mount shows only its end."""
    files = {
        "memory/memory.limit_in_bytes": str(300 * MIB),
        "memory/memory.usage_in_bytes": str(50 * MIB),
        "memory/memory.stat": f"total_inactive_file {10 * MIB}",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
        "cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    own = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/"
    mounts = "\n".join(line.format(root=mount_root) for line in (V1_MEMORY, V1_CPU))
    root = system(tmp_path, own, mounts, files)
    assert cgroup.memory_limits(root) == [cgroup.Memory(300 * MIB, 40 * MIB)]
    assert cgroup.cpu_quota(root) == 0.5
    assert cgroup.num_oom_kills(root) == 3


def test_v1_nested_and_beside_an_empty_v2(tmp_path: Path) -> None:
    files = {
        "memory/a/b/memory.limit_in_bytes": UNLIMITED,
        "memory/a/b/memory.usage_in_bytes": str(7 * MIB),
        "memory/a/b/memory.stat": f"hierarchical_memory_limit {100 * MIB}",
        "memory/a/memory.limit_in_bytes": str(100 * MIB),
        "memory/a/memory.usage_in_bytes": str(60 * MIB),
        "memory/memory.limit_in_bytes": UNLIMITED,
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
    }
    own = "4:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/"
    mounts = "\n".join([V1_MEMORY.format(root="/"), V1_CPU.format(root="/"), V2])
    root = system(tmp_path, own, mounts, files)
    assert [memory.left // MIB for memory in cgroup.memory_limits(root)] == [93, 40]
    assert cgroup.cpu_quota(root) is None


def test_a_group_outside_of_the_namespace_falls_back_to_what_is_mounted(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/../sibling", V2, {"cpu.max": "300000 100000"})
    assert cgroup.cpu_quota(root) == 3.0


@pytest.mark.parametrize("line", ["", "nonsense", "a - b", "0::", "30 23 - cgroup2"])
def test_files_in_another_form_are_passed_over(tmp_path: Path, line: str) -> None:
    assert cgroup.memory_limits(system(tmp_path, line, line, {})) == []


def test_cores_are_cut_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.runner import device

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    for quota, whole, shown in ((2.5, 2, 2.5), (0.5, 1, 0.5), (99.0, 8, 8.0), (None, 8, 8.0)):
        monkeypatch.setattr(device, "cpu_quota", lambda quota=quota: quota)
        monkeypatch.setattr(cgroup, "cpu_quota", lambda quota=quota: quota)
        assert device.usable_cores() == whole
        assert machine.usable_cores() == shown


def test_the_least_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.runner import device

    free = device.available_bytes()
    assert free is not None
    limits = [cgroup.Memory(3 * MIB, MIB), cgroup.Memory(1 << 50, 0)]
    monkeypatch.setattr(device, "memory_limits", lambda: limits)
    assert device.available_bytes() == 2 * MIB
