"""How an engine ended, in words."""

import pytest

from shoal.bridge import exit_codes
from shoal.bridge.exit_codes import describe_exit
from shoal.cgroup import Memory


@pytest.mark.parametrize(
    ("code", "num_oom_kills", "words"),
    [
        (1, 0, "exited with code 1"),
        (-6, 0, "ended by SIGABRT"),
        (-40, 0, "ended by signal 40"),
        (-9, 0, "ended by SIGKILL"),
        (-9, 1, "not enough memory (the limit is 200 MiB)"),
        (-11, 1, "ended by SIGSEGV"),
    ],
)
def test_signals_are_named_and_lack_of_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, code: int, num_oom_kills: int, words: str
) -> None:
    monkeypatch.setattr(exit_codes, "num_oom_kills", lambda: num_oom_kills)
    monkeypatch.setattr(exit_codes, "tightest_memory", lambda: Memory(200 << 20, 0))
    assert words in describe_exit(code)
