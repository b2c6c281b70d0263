"""What the machine is asked, and that it is asked for no more than it has."""

import os

import pytest

from shoal.errors import ConfigError
from shoal.runner.device import available_bytes, choose_device, has_gpu, usable_cores

torch = pytest.importorskip("torch")


def test_cores_are_at_least_one_and_at_most_the_affinity_mask() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_available_memory_is_a_sane_number_of_bytes() -> None:
    found = available_bytes()
    assert found is not None
    assert 1 << 20 < found < 1 << 50


def test_auto_takes_a_gpu_only_where_there_is_one() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert has_gpu() or not torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        choose_device("cuda")
