# SPDX-License-Identifier: Apache-2.0
"""Plots are well-formed SVG that shows what it was given, whatever that is."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from recon.bench.plot import Level, Plot, Series, _Axis, stacked_svg

SVG = "{http://www.w3.org/2000/svg}"


def parsed(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(plot.to_svg())


def circles(root: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]


def test_points_stand_where_the_axes_say() -> None:
    plot = Plot("t", "x, s", "y, dB", [Series("a", [(1, 10), (10, 20), (100, 30)])], log_y=False, width=400, height=300)
    root = parsed(plot)
    points = circles(root)[:3]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)  # a factor of ten each
    assert points[0][1] > points[1][1] > points[2][1]  # up is more
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"t", "x, s", "y, dB", "a"} <= set(texts)
    assert "10" in texts


def test_names_with_markup_stay_text() -> None:
    root = parsed(Plot("<b>&", "x", "y", [Series("</svg>", [(1, 1)])], [Level("a<b", 1)]))
    assert {"<b>&", "</svg>", "a<b"} <= {text.text for text in root.iter(f"{SVG}text")}


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1.0, 1.0)],
        [(0.0, -1.0), (math.nan, 2.0), (math.inf, 1.0)],
        [(1.0, 5.0), (1.0, 5.0)],
        [(1e-9, 1e12), (1e9, 1)],
    ],
    ids=["none", "one", "impossible", "same", "far apart"],
)
@pytest.mark.parametrize("log", [True, False])
def test_any_points_make_a_document(points: list[tuple[float, float]], log: bool) -> None:
    text = Plot("t", "x", "y", [Series("s", points)], log_x=log, log_y=log).to_svg()
    assert "nan" not in text
    assert "inf" not in text.replace("infinity", "")
    ElementTree.fromstring(text)


def test_points_that_a_logarithm_cannot_show_are_left_out() -> None:
    drawn = circles(parsed(Plot("t", "x", "y", [Series("s", [(0.0, 1.0), (1.0, 1.0), (2.0, -3.0)])])))
    assert len(drawn) == 1 + 1  # and the legend's


def test_plots_stand_below_each_other() -> None:
    plot = Plot("t", "x", "y", [Series("s", [(1, 1), (2, 2)])])
    root = ElementTree.fromstring(stacked_svg([plot, plot]))
    assert float(root.attrib["height"]) == 2 * float(parsed(plot).attrib["height"])
    assert "prefers-color-scheme:dark" in stacked_svg([plot])


@pytest.mark.parametrize(("low", "high"), [(1, 10), (10_000, 4_000_000), (3, 4), (1e-9, 1e9)])
def test_a_logarithmic_axis_has_a_readable_number_of_ticks(low: float, high: float) -> None:
    ticks = _Axis.of([low, high], True, 560).ticks()
    assert 2 <= len(ticks) <= 20
    assert len({name for _, name in ticks}) == len(ticks)
