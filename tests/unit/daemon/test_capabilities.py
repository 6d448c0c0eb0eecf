"""What a container, a mask or the environment withholds is not offered; what is told is believed; reasons are stated."""

import json
import os
import subprocess
import sys
import types
from pathlib import PurePosixPath

import pytest

from soma.daemon import capabilities
from soma.daemon.capabilities import Gpu, choose_visible, detect, usable_cores, usable_memory
from soma.daemon.cgroups import Limits, find_limits, own_limits

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
             "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
             "33 31 0:30 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
V1_GROUPS = "5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}\n0::/\n"


@pytest.mark.parametrize(("groups", "mounts", "files", "cpus", "memory"), [
    ("0::/a/b\n", V2_MOUNT, {"a/b/cpu.max": "150000 100000\n", "a/b/memory.max": "1048576\n"}, 1.5, 2**20),
    ("0::/a/b\n", V2_MOUNT, {"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"}, None, None),
    ("0::/a/b\n", V2_MOUNT, {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n", "memory.max": "5\n"}, 2, 5),
    ("0::/\n", V2_MOUNT, {"cpu.max": "50000 100000\n"}, 0.5, None),
    ("0::/../../host\n", V2_MOUNT, {"cpu.max": "300000 100000\n"}, 3, None),
    ("0::/a\n", V2_MOUNT, {"a/cpu.max": "", "a/memory.max": "nonsense"}, None, None),
    (V1_GROUPS.format(path="/docker/1"), V1_MOUNTS.format(root="/"),
     {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "50000\n",
      "memory/docker/1/memory.limit_in_bytes": "9223372036854771712\n",
      "memory/docker/memory.limit_in_bytes": "4096\n"}, 5, 4096),
    (V1_GROUPS.format(path="/docker/1"), V1_MOUNTS.format(root="/docker/1"),
     {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "memory/memory.limit_in_bytes": "8192\n"}, 1, 8192),
    (V1_GROUPS.format(path="/"), V1_MOUNTS.format(root="/"),
     {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
    ("", V2_MOUNT, {"cpu.max": "100000 100000"}, None, None),
    ("0::/a\n", "", {"a/cpu.max": "100000 100000"}, None, None),
    ("0::/a\nbroken", "broken\n- - -\n" + V2_MOUNT, {"a/cpu.max": "100000 0", "a/memory.max": "-5"}, None, None),
])
def test_the_least_limit_of_all_groups_above(groups, mounts, files, cpus, memory):
    texts = {PurePosixPath("/sys/fs/cgroup") / name: text for name, text in files.items()}
    assert find_limits(groups, mounts, texts.get) == Limits(cpus, memory)


def test_this_machine_can_be_read():
    found = own_limits()
    assert found.cpus is None or found.cpus > 0
    assert found.memory is None or found.memory > 0


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (1.5, 1), (0.3, 1), (2.0, 2), (2.999999999, 3), (64, 4)])
def test_cores_are_whole_and_at_least_one(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 5, 7}, raising=False)
    assert usable_cores(Limits(cpus=quota)) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_the_affinity_mask_counts():
    program = ("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
               "from soma.daemon.capabilities import detect; import json; print(json.dumps(detect().as_dict()))")
    told = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert told["cpu_cores"] == 1


def test_memory_is_what_the_container_allows():
    there = usable_memory(Limits())
    assert there > 2**26
    assert usable_memory(Limits(memory=2**20)) == 2**20
    assert usable_memory(Limits(memory=there * 2)) == there


def test_what_is_told_is_believed():
    told = detect(num_cpus=64, num_gpus=0, memory=10)
    assert (told.cpu_cores, told.num_gpus, told.gpus, told.ram_bytes) == (64, 0, (), 10)
    assert told.gpu_reason == "num_gpus=0 was asked for"
    assert told.python == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(told.as_dict()))["gpus"] == []


@pytest.mark.parametrize("amounts", [{"num_cpus": -1}, {"num_gpus": float("nan")}, {"memory": -1}, {"num_cpus": float("inf")}])
def test_amounts_that_mean_nothing(amounts):
    with pytest.raises(ValueError, match=next(iter(amounts))):
        detect(**amounts)


GPUS = tuple(Gpu(i, "H200", f"GPU-{i}{i}-aaaa", 2**37) for i in range(3))


@pytest.mark.parametrize(("visible", "chosen", "reason"), [
    ("0,1,2", [0, 1, 2], ""),
    ("2,0", [2, 0], "CUDA_VISIBLE_DEVICES=2,0"),
    ("GPU-11-aaaa", [1], "CUDA_VISIBLE_DEVICES=GPU-11-aaaa"),
    ("GPU-11", [1], "CUDA_VISIBLE_DEVICES=GPU-11"),
    ("1,-1,2", [1], "'-1' is not one of 3 GPUs"),
    ("7", [], "'7' is not one of 3 GPUs"),
    ("GPU-", [], "'GPU-' is not one of 3 GPUs"),
    ("1,1", [1], "'1' is not one of 3 GPUs"),
    ("MIG-5", [], "'MIG-5' is not one of 3 GPUs"),
])
def test_visible_gpus_as_cuda_counts_them(visible, chosen, reason):
    found, why = choose_visible(GPUS, visible)
    assert [gpu.index for gpu in found] == chosen
    assert why.endswith(reason) and bool(why) == bool(reason)


@pytest.fixture
def nvml(monkeypatch):
    """A driver with two GPUs, as NVML would tell."""
    stand_in = types.SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetName=lambda h: b"H200", nvmlDeviceGetUUID=lambda h: f"GPU-{h}",
        nvmlDeviceGetMemoryInfo=lambda h: types.SimpleNamespace(total=2**37))
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setattr(capabilities.os.path, "exists", lambda path: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stand_in


def test_gpus_are_told_with_their_memory(nvml):
    found = detect()
    assert found.gpus == (Gpu(0, "H200", "GPU-0", 2**37), Gpu(1, "H200", "GPU-1", 2**37))
    assert (found.num_gpus, found.gpu_reason) == (2, "")
    fewer = detect(num_gpus=1)
    assert (fewer.gpus, fewer.num_gpus, fewer.gpu_reason) == (found.gpus[:1], 1, "num_gpus=1 of 2 was asked for")
    assert detect(num_gpus=0.5).gpus == found.gpus[:1]
    assert detect(num_gpus=4).num_gpus == 4


def test_why_there_is_none(nvml, monkeypatch):
    def fails():
        raise RuntimeError("Driver/library version mismatch")

    nvml.nvmlDeviceGetCount = lambda: 0
    assert detect().gpu_reason == "NVML knows of no GPU"
    nvml.nvmlDeviceGetCount = fails
    assert detect().gpu_reason == "NVML does not answer: Driver/library version mismatch"
    nvml.nvmlInit = fails
    assert detect().gpu_reason == "NVML cannot be asked: Driver/library version mismatch"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " ")
    assert detect().gpu_reason == "CUDA_VISIBLE_DEVICES is empty"
