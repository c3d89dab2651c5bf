"""Pictures show what the numbers say, and can be read by most eyes."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import numpy as np
import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated import DirichletPartition
from lightning_privacy.report.federated_picture import federated_report
from lightning_privacy.report.partition_picture import label_counts, partition_picture

pytest.importorskip("matplotlib", reason="pictures need the extra plots")

LABELS = np.random.default_rng(0).integers(0, 10, 5000)
PARTS = DirichletPartition(100, alpha=0.3).split(LABELS, 5000, seed=0)
NAN = float("nan")


def _bar_heights(axes):
    """Heights of the bars, shape (labels, clients)."""
    return np.array([[bar.get_height() for bar in container] for container in axes.containers])


def test_counts_are_those_of_a_loop():
    counts, names = label_counts(LABELS, PARTS)
    assert names == [str(label) for label in range(10)]
    for client, part in enumerate(PARTS):
        for label in range(10):
            assert counts[client, label] == sum(LABELS[part] == label)


def test_bars_are_the_counts_stacked():
    axes = partition_picture(LABELS, PARTS).axes[0]
    counts, _ = label_counts(LABELS, PARTS)
    assert (_bar_heights(axes) == counts.T).all()
    tops = np.array([[bar.get_y() + bar.get_height() for bar in container] for container in axes.containers])
    assert (tops[-1] == [len(part) for part in PARTS]).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(label) for label in range(9, -1, -1)]


def test_areas_of_bubbles_are_the_counts():
    axes = partition_picture(LABELS, PARTS, kind="bubbles").axes[0]
    (bubbles,) = axes.collections
    counts, _ = label_counts(LABELS, PARTS)
    places = bubbles.get_offsets().astype(int)
    assert len(places) == (counts > 0).sum()
    areas = bubbles.get_widths() ** 2
    np.testing.assert_allclose(areas / areas.max(), counts[places[:, 0], places[:, 1]] / counts.max())
    assert bubbles.get_widths().max() < 1, "bubbles of neighbours don't touch"


def test_many_labels_are_bubbles_unless_asked_otherwise():
    labels = np.arange(200) % 40
    parts = [np.arange(0, 100), np.arange(100, 200)]
    assert partition_picture(labels, parts).axes[0].collections
    bars = partition_picture(labels, parts, kind="bars").axes[0]
    assert len({container.patches[0].get_facecolor() for container in bars.containers}) == 40


def test_of_many_clients_some_are_shown_and_it_is_said():
    figure = partition_picture(LABELS, PARTS, max_clients=10)
    axes = figure.axes[0]
    heights = _bar_heights(axes).sum(0)
    sizes = sorted((len(part) for part in PARTS), reverse=True)
    assert heights.tolist() == [sizes[round(place)] for place in np.linspace(0, 99, 10)]
    assert axes.get_xlim()[1] < 10
    large = partition_picture(LABELS, PARTS, max_clients=50).axes[0]
    assert large.get_xlabel().startswith("50 of 100 clients")


def test_a_hundred_clients_fit_on_a_page_with_room_for_each(tmp_path):
    figure = partition_picture(LABELS, PARTS, path=tmp_path / "clients.png")
    figure.canvas.draw()
    width = figure.axes[0].get_window_extent().width / figure.dpi
    assert 0.1 <= width / 100 <= 13 / 100, "inches for a client"
    ticks = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels() if tick.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(ticks)), "numbers overlap"
    assert (tmp_path / "clients.png").stat().st_size > 1000


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009:
# complete deficiency, linear RGB.
_SEEN_AS = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def _lab(colour, matrix):
    """CIE L*a*b* (D65) of a colour as it is seen."""
    rgb = np.array(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    f = [value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", _SEEN_AS)
def test_colours_can_be_told_apart(eyes):
    """Every two of ten differ by more than 15 (2.3 is just noticeable), neighbours in a stack by more than 45."""
    axes = partition_picture(LABELS, PARTS).axes[0]
    seen = [_lab(container.patches[0].get_facecolor(), _SEEN_AS[eyes]) for container in axes.containers]
    distances = np.array([[np.linalg.norm(a - b) for a in seen] for b in seen])
    assert distances[np.triu_indices(10, 1)].min() > 15
    assert np.diagonal(distances, 1).min() > 45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pie"}, "kind must be one of"),
        ({"max_clients": 0}, "max_clients must be"),
        ({"label_names": ["a"]}, "label_names must have 10 entries, got 1"),
        ({"client_names": ["a"]}, "client_names must have 100 entries, got 1"),
        ({"parts": []}, "parts must hold the indices of at least one client"),
        ({"parts": [np.array([5000])]}, "parts must hold the indices"),
        ({"path": "picture.docx"}, r"path must end with one of .*png.*, got picture\.docx"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        partition_picture(**{"labels": LABELS, "parts": PARTS, **arguments})


def _history(rounds=20):
    generator = np.random.default_rng(0)
    return [
        {
            "round": number,
            "loss": 1 / (number + 1),
            "accuracy": number / rounds,
            "client_loss": generator.random(10).tolist(),
            "client_accuracy": generator.random(10).tolist(),
            "delta_norm": 2.0,
            "cosine": generator.random(10).tolist(),
            "bytes": 500_000,
            "seconds": [0.1, 0.2],
        }
        for number in range(rounds)
    ]


def _lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.lines}


def test_every_figure_of_the_history_has_its_panel(tmp_path):
    history = _history()
    figure = federated_report(history, tmp_path / "run.svg")
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert len(panels) == 8
    (accuracy,) = panels["accuracy"].lines
    assert accuracy.get_xdata().tolist() == list(range(20))
    assert accuracy.get_ydata().tolist() == [number / 20 for number in range(20)]
    spread = _lines(panels["accuracy of a client"])
    drawn = np.array([entry["client_accuracy"] for entry in history])
    np.testing.assert_allclose(spread["mean"], drawn.mean(1))
    np.testing.assert_allclose(spread["median"], np.median(drawn, 1))
    ranges = [band.get_paths()[0].vertices[:, 1] for band in panels["accuracy of a client"].collections]
    assert (ranges[0].min(), ranges[0].max()) == (drawn.min(), drawn.max())
    assert ranges[1].max() == np.quantile(drawn, 0.75, axis=1).max()
    np.testing.assert_allclose(panels["megabytes sent"].lines[0].get_ydata(), np.arange(1, 21) / 2)
    assert "<svg" in (tmp_path / "run.svg").read_text()
    assert sum(axes.get_legend() is not None for axes in figure.axes) == 1


def test_what_is_missing_is_a_gap_or_has_no_panel():
    history = [
        {"round": 1, "accuracy": 0.1, "client_loss": [1.0, NAN, 3.0], "cosine": None},
        {"round": 2, "accuracy": NAN, "client_loss": []},
        {"round": 3, "accuracy": 0.3, "client_loss": [2.0], "cosine": NAN},
    ]
    figure = federated_report(history)
    accuracy, losses = figure.axes
    assert [math.isnan(value) for value in accuracy.lines[0].get_ydata()] == [False, True, False]
    np.testing.assert_array_equal(_lines(losses)["mean"], [2.0, NAN, 2.0])
    federated_report(history[:1])


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "history must hold at least one round"),
        ([{"loss": 1.0}], "history must have the key 'round'"),
        ([{"round": 0, "lr": 1.0}], r"history must have at least one of accuracy, loss.*got \['lr', 'round'\]"),
        ([{"round": 0, "loss": NAN}], "history must have at least one of"),
    ],
    ids=["empty", "no number", "nothing known", "nothing finite"],
)
def test_a_history_that_is_none(history, message):
    with pytest.raises(ConfigurationError, match=message):
        federated_report(history)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: federated_report(_history()), lambda: partition_picture(LABELS, PARTS)):
        with pytest.raises(ConfigurationError, match=r"pip install 'lightning-privacy\[plots\]'"):
            draw()
