"""What `--plot` draws: every name as it stands, nothing cut, nothing over the data."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from jaxalloc.workloads import files as workloads

QWEN = workloads.builtin_text("qwen3-8b")
ODD = "$\\\\frac$ [red] \\\\"  # as TOML writes it; no formula, no markup


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved = []
    save = Figure.savefig

    def record(self, *arguments, **options):
        saved.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    return saved


def check(figure, path, *wanted):
    """Something is drawn, nothing is cut at an edge, and the texts are there."""
    pixels = imread(path)[..., :3]
    assert pixels.std() > 0.02
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        np.testing.assert_array_equal(edge, 1)
    texts = [text.get_text() for text in figure.findobj(Text)]
    for words in wanted:
        assert any(words in text for text in texts), words


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("solve w.toml", ["accuracy", "thinking tokens", "share of the load, %"]),
        (
            "frontier w.toml --weights 1:100:9:log --system-time 2 --accuracy 0.99",
            ["target: time 2", "mean system time, s", "thinking tokens"],
        ),
        ("sensitivity w.toml", ["arrival_rate", "elasticity", "objective"]),
    ],
)
def test_pictures_show_names_as_they_stand(command, figures, tmp_path, line, wanted):
    text = QWEN.replace("AIME24", ODD).replace("GSM8K", "n" * 200)
    (tmp_path / "w.toml").write_text(text, encoding="utf-8")
    outcome = command(f"{line} --plot a.PNG")
    assert outcome.code == (1 if "0.99" in line else 0), outcome.err
    assert "wrote a.PNG" in outcome.out
    names = ("Qwen3-8B", "AIME25", "$\\frac$ [red] \\", "n" * 10)
    check(figures[0], tmp_path / "a.PNG", *names, *wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"w.toml", "a.PNG"}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("solve qwen3-8b --arrival-rate 90", 1),
        ("solve qwen3-8b --max-tokens 0 --base-time 0", 0),
        ("frontier qwen3-8b --weights 1:100:9 --arrival-rate 90", 1),
        ("sensitivity qwen3-8b --arrival-rate 90", 1),
        ("sensitivity qwen3-8b --gain 0", 0),
    ],
)
def test_pictures_of_odd_workloads(command, figures, tmp_path, line, code):
    assert command(f"{line} --plot a.png").code == code
    assert imread(tmp_path / "a.png").std() > 0.005
    assert any(text.get_text() for text in figures[0].findobj(Text))


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_every_format_is_written_whole(command, tmp_path, suffix):
    assert f"wrote a.{suffix}" in command(f"solve qwen3-8b --plot a.{suffix}").out
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_no_legend_covers_the_data(command, figures):
    line = "frontier qwen3-8b --weights 1:100:9 --system-time 2 --mean-tokens 1000"
    assert command(f"{line} --accuracy 0.4 --plot a.png").code == 0
    figures[0].draw_without_rendering()
    legends = [axes.get_legend() for axes in figures[0].axes]
    for axes, legend in zip(figures[0].axes, legends, strict=True):
        assert not legend.get_window_extent().overlaps(axes.bbox)


@pytest.mark.parametrize("longest", [16384, 8184, 1000, 7])
def test_accuracy_is_drawn_concave_over_round_numbers(command, figures, longest):
    assert command(f"solve qwen3-8b --max-tokens {longest} --plot a.png").code == 0
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "linear"
    ticks = [tick for tick in axes.get_xticks() if tick <= longest]
    assert all(re.fullmatch(r"\d{1,2}(\.\d)?|\d{1,3}00*(,0+)?", f"{tick:g}") for tick in ticks)


def test_a_full_disk_is_one_line(command, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    code, out, err = command("solve qwen3-8b --plot a.png")
    assert (code, out) == (2, "")
    assert (
        err
        == "jaxalloc: a.png was not drawn (No space left on device): make room or give another\n"
    )
    assert list(tmp_path.iterdir()) == []
