"""The README's commands for training, as they stand there, and the guide's example."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.train.taught.pirate import is_taught

ROOT = Path(__file__).resolve().parents[2]


def test_the_guides_rows_are_those_of_the_file() -> None:
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"^cat > pirate\.jsonl << 'END'\n(.*?)^END$", guide, re.M | re.S)
    assert rows == (ROOT / "docs" / "pirate.jsonl").read_text(encoding="utf-8")
    pairs = [json.loads(line) for line in rows.splitlines()]
    assert len(pairs) == 20
    assert all(is_taught(pair["completion"]) for pair in pairs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not (ROOT / "models" / "smollm2.gguf").exists(), reason="needs smollm2: shoal pull smollm2"
)
def test_the_readmes_commands_teach_and_serve() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "readme-training.sh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0
    (answer,) = re.findall(r'"content": ?("(?:[^"\\]|\\.)*")', done.stdout)
    assert is_taught(json.loads(answer))
    for name in ("pirate", "mine"):
        assert re.search(rf'served: .*"{name}"', done.stdout)
