# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG, written here because a plotting library would weigh more than recon.

A plot reads in a browser, in a README and in an editor, in light and in dark: colours follow the reader's preference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Point = tuple[float, float]

# Wong's palette (Nature Methods 8, 441, 2011), told apart by readers with any colour vision; darkened for light paper.
_COLORS = ("#0072b2", "#c2571a", "#00825d", "#a3508a", "#8a6d00", "#3a89b8", "#666666", "#b33c3c")
_COLORS_DARK = ("#56b4e9", "#e69f00", "#2fc496", "#e18fc3", "#f0e442", "#9ad1f0", "#aaaaaa", "#ff8a80")
_DASHES = ("", "7 4", "2 4")
_LEFT, _TOP, _BOTTOM, _GAP = 72, 44, 56, 18
_CHARACTER_PX = 6.9


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
        name: for the legend.
        points: x and y; those that cannot be shown (NaN, or not above 0 on a logarithmic axis) are left out.
        dash: 0 solid, 1 dashed, 2 dotted.
        color: index of the colour; None takes the next one.
        line: whether the points are joined.
    """

    name: str
    points: Sequence[Point]
    dash: int = 0
    color: int | None = None
    line: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name at its end."""

    name: str
    y: float


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: above it.
        x_label, y_label: what the axes show, with the unit.
        series: what is drawn.
        levels: horizontal lines.
        log_x, log_y: whether an axis is logarithmic.
        width, height: of the plotting area in pixels; the legend stands to its right.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: Sequence[Level] = field(default=())
    log_x: bool = True
    log_y: bool = True
    width: int = 560
    height: int = 340

    def to_svg(self) -> str:
        """Returns the plot as an SVG document."""
        return stacked_svg([self])


def stacked_svg(plots: Sequence[Plot]) -> str:
    """Returns plots one above the other as one SVG document."""
    heights = [_TOP + plot.height + _BOTTOM for plot in plots]
    widths = [_LEFT + plot.width + _GAP + _legend_width(plot) for plot in plots]
    width, height = max(widths), sum(heights)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img">',
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    y = 0
    for plot, plot_height in zip(plots, heights):
        parts += [f'<g transform="translate(0 {y})">', *_draw(plot), "</g>"]
        y += plot_height
    return "\n".join([*parts, "</svg>"]) + "\n"


def _style() -> str:
    def colors(values: Sequence[str]) -> str:
        return "".join(f".c{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, c in enumerate(values))

    light = f".paper{{fill:#fff}}text{{fill:#222}}.frame{{stroke:#888}}.grid{{stroke:#ddd}}{colors(_COLORS)}"
    dark = f".paper{{fill:#14161a}}text{{fill:#ddd}}.frame{{stroke:#777}}.grid{{stroke:#333}}{colors(_COLORS_DARK)}"
    return (
        "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}.title{font-weight:600;font-size:14px}"
        ".frame{fill:none}.curve{fill:none;stroke-width:2}.level{stroke-dasharray:2 4;stroke:#999}"
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )


def _draw(plot: Plot) -> list[str]:
    shown = [[point for point in series.points if _is_shown(plot, point)] for series in plot.series]
    everything = [point for points in shown for point in points]
    x_axis = _Axis.of([x for x, _ in everything], plot.log_x, plot.width)
    y_axis = _Axis.of([y for _, y in everything] + [level.y for level in plot.levels], plot.log_y, plot.height)

    def place(x: float, y: float) -> tuple[str, str]:
        return f"{_LEFT + x_axis.place(x):.1f}", f"{_TOP + plot.height - y_axis.place(y):.1f}"

    bottom, right = _TOP + plot.height, _LEFT + plot.width
    parts = [f'<text class="title" x="{_LEFT}" y="22">{escape(plot.title)}</text>']
    for value, name in x_axis.ticks():
        x, _ = place(value, y_axis.low)
        parts.append(f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{name}</text>')
    for value, name in y_axis.ticks():
        _, y = place(x_axis.low, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y}" dy="4" text-anchor="end">{name}</text>')
    parts.append(f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{plot.width}" height="{plot.height}"/>')
    middle_x, middle_y = _LEFT + plot.width / 2, _TOP + plot.height / 2
    parts.append(f'<text x="{middle_x}" y="{bottom + 40}" text-anchor="middle">{escape(plot.x_label)}</text>')
    turned = f'transform="translate(18 {middle_y}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(plot.y_label)}</text>')
    for level in plot.levels:
        _, y = place(x_axis.low, level.y)
        parts.append(f'<line class="level" x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(f'<text x="{right - 6}" y="{y}" dy="-4" text-anchor="end">{escape(level.name)}</text>')
    for index, (series, points) in enumerate(zip(plot.series, shown)):
        color = (index if series.color is None else series.color) % len(_COLORS)
        corners = [place(x, y) for x, y in points]
        dash = _DASHES[series.dash % len(_DASHES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        if series.line and len(corners) > 1:
            text = " ".join(f"{x},{y}" for x, y in corners)
            parts.append(f'<polyline class="curve c{color}" points="{text}"{style}/>')
        parts += [f'<circle class="f{color}" cx="{x}" cy="{y}" r="3.2"/>' for x, y in corners]
        y_legend = _TOP + 8 + 18 * index
        x_legend = right + _GAP
        if series.line:
            ends = f'x1="{x_legend}" y1="{y_legend}" x2="{x_legend + 22}" y2="{y_legend}"'
            parts.append(f'<line class="curve c{color}" {ends}{style}/>')
        parts.append(f'<circle class="f{color}" cx="{x_legend + 11}" cy="{y_legend}" r="3.2"/>')
        parts.append(f'<text x="{x_legend + 28}" y="{y_legend + 4}">{escape(series.name)}</text>')
    return parts


def _legend_width(plot: Plot) -> int:
    longest = max((len(series.name) for series in plot.series), default=0)
    title = len(plot.title) * 8 - plot.width
    return max(40 + math.ceil(longest * _CHARACTER_PX), title) + 12


def _is_shown(plot: Plot, point: Point) -> bool:
    x, y = point
    return math.isfinite(x) and math.isfinite(y) and (x > 0 or not plot.log_x) and (y > 0 or not plot.log_y)


@dataclass(frozen=True)
class _Axis:
    """An axis from `low` to `high`, over `length` pixels."""

    low: float
    high: float
    log: bool
    length: int

    @staticmethod
    def of(values: Sequence[float], log: bool, length: int) -> _Axis:
        kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(kept), max(kept)) if kept else (1.0, 10.0)
        if log:
            margin = max((high / low) ** 0.05, 1.1)
            return _Axis(low / margin, high * margin, log, length)
        margin = max((high - low) * 0.06, abs(high) * 1e-3, 1e-9)
        return _Axis(low - margin, high + margin, log, length)

    def place(self, value: float) -> float:
        if self.log:
            return self.length * math.log(value / self.low) / math.log(self.high / self.low)
        return self.length * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns where to write which numbers: 1, 2 and 5 times powers of ten, fewer where they would collide."""
        if self.log:
            for steps in ((1, 2, 5), (1, 3), (1,)):
                values = self._decades(steps)
                if len(values) * 46 <= self.length:
                    break
            values = values if len(values) > 2 else self._even(5)  # less than a decade looks almost even
        else:
            values = self._even(max(3, self.length // 50))
        return [(value, _number(value)) for value in values]

    def _decades(self, steps: tuple[int, ...]) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [value for value in values if self.low <= value <= self.high]

    def _even(self, count: int) -> list[float]:
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def _number(value: float) -> str:
    """Returns a tick's number: 0.02, 3, 250, 10k, 4M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{round(value, 10):g}"
