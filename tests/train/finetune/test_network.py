"""Loss and gradients of every family are those of Hugging Face's own networks, row by row."""

from pathlib import Path

import pytest

from tests.fakes.tiny_models import CONFIGS
from tests.model.cases import ALL, write_case
from tests.model.driving import reference_model
from tests.train.finetune.rows import (
    assert_close,
    gradients_by_role,
    load,
    make_network,
    one_pack,
    random_rows,
    reference_gradients,
    reference_nats,
)

pytest.importorskip("transformers")

TOLERANCE = 1e-4
SHAPES = [(40, 15), (1, 0), (31, 30), (64, 12), (40, 21)]
LONG_SHAPES = [(length + 64, learned_from + 64) for length, learned_from in SHAPES if learned_from]
"""`transformers` turns to the long factors of longrope in rows longer than the original length;
Shoal has one of the two for all rows, as it serves them."""


@pytest.mark.parametrize(("family", "name"), ALL)
def test_loss_and_gradients_equal_those_of_transformers(
    family: str, name: str, tmp_path: Path
) -> None:
    folder = write_case(tmp_path / "tiny", family, name)
    is_long = name in ("longrope, long", "longrope, attention factor")
    rows = random_rows(LONG_SHAPES if is_long else SHAPES)
    model = reference_model(folder)
    wanted = reference_nats(model, rows)
    wanted.backward()

    checkpoint = load(folder)
    network = make_network(checkpoint)
    pack = one_pack(rows)
    found, num_targets = network.nats(pack)
    assert num_targets == pack.num_targets == 25 + 1 + 52 + 19
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    assert network.backward(pack, 1.0) == pytest.approx(found, rel=1e-6)
    gradients = gradients_by_role(network)
    references = reference_gradients(model, checkpoint)
    assert gradients.keys() == references.keys()
    for role, gradient in gradients.items():
        assert_close(gradient, references[role], TOLERANCE, role)


def test_every_family_has_a_case() -> None:
    assert {family for family, _ in ALL} == set(CONFIGS)
