"""The thread pool sleeps when there is nothing to do, and the native path loads no torch."""

import subprocess
import sys
import time

import numpy as np
import pytest

from shoal.kernels.native import available
from tests.kernels.building import SPECS, make_model, make_weights, random_tokens
from tests.kernels.driving import Driver

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")


def test_an_idle_pool_burns_no_processor_time() -> None:
    spec = SPECS["llama"]
    model = make_model(spec, make_weights(spec), num_threads=3)
    Driver(model).step([(0, random_tokens(spec, 100))])
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.1


def test_many_models_come_and_go_while_their_threads_sleep_or_work() -> None:
    spec = SPECS["llama"]
    weights = make_weights(spec)
    tokens = random_tokens(spec, 40)
    wanted = None
    for i in range(20):
        model = make_model(spec, weights, num_threads=4, spin_us=(0, 500)[i % 2])
        driver = Driver(model)
        found = [driver.step([(0, tokens[j : j + 4])]) for j in range(0, 40, 4)]
        wanted = found if wanted is None else wanted
        np.testing.assert_array_equal(found, wanted)
        del model, driver


def test_the_native_path_loads_no_torch() -> None:
    code = "import sys, shoal.kernels.native as n; n.kernel_sets(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "service"},
    )
    assert done.stdout.strip() == "False"
