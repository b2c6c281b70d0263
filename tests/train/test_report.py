"""The plot of a run: what has one unit shares one axis."""

from pathlib import Path

from shoal.train.progress import Progress
from shoal.train.report import plot_panels, write_loss_plot


def run_with(**figures: float) -> Progress:
    named = {name.replace("__", " "): value for name, value in figures.items()}
    return Progress(losses=[(10, 3.0), (20, 2.0)], held_out=[(10, named), (20, named)])


def test_losses_bits_and_shares_have_panels_of_their_own() -> None:
    run = run_with(exact__b=0.5, bits_per_byte__a=1.0, exact__c=0.25)
    assert [names for _, names in plot_panels(run)] == [
        ["loss"],
        ["bits_per_byte a"],
        ["exact b", "exact c"],
    ]
    assert [names for _, names in plot_panels(run_with())] == [["loss"]]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    if write_loss_plot(run_with(exact__b=0.5), tmp_path / "loss.png"):  # else no matplotlib
        assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
