"""What a replay has found, as a picture: an SVG, which every browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from app.replay.picture_data import BINS, Along, Joint
from app.replay.report import Report
from app.wire.tensors import Array

_WIDTH, _MARGIN, _SIDE, _HEIGHT = 960, 56, 190, 130
_INK, _PALE, _LINE, _OTHER = "#1f2933", "#9aa5b1", "#1f6feb", "#b45309"


def picture_of(report: Report) -> str:
    """Returns the SVG: agreement and divergence along the recording, and recorded beside new actions."""
    along, joints = report.findings.along, report.findings.joints.found or []
    parts = [*_text(_MARGIN, 30, f"{report.policy}: {_title(report)}", 18, weight="bold")]
    top = 60
    for title, values, low, high in _lines(along):
        parts += _along(title, values, (low, high), top)
        top += _HEIGHT + 60
    for index, joint in enumerate(joints):
        parts += _joint(joint, _MARGIN + index * (_SIDE + 34), top + 20)
    height = top + (_SIDE + 80 if joints else 0)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" role="img">'
    )
    title = f"<title>{escape(report.policy)}: {escape(_title(report))}</title>"
    return "\n".join([head, title, f'<rect width="{_WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _title(report: Report) -> str:
    total = report.total
    again = "the versions that answered then" if report.answers is None else f"version {report.answers[0]}"
    agreement = f", agreement {100 * total.agreement:.2f} %" if total.compared else ""
    return f"{total.rows:,} rows answered again by {again}{agreement}"


def _lines(along: Along) -> Iterator[tuple[str, Array, float, float]]:
    """The title, [BINS] values (NaN where there are none) and ends of each curve."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if along.compared.any():
            yield "agreement (share of rows)", along.agree / along.compared, 0.0, 1.0
        if along.diverged.any():
            values = along.divergence / along.diverged
            yield "divergence (mean, nats)", values, 0.0, float(np.nanmax(values)) or 1.0


def _along(title: str, values: Array, ends: tuple[float, float], top: int) -> Iterator[str]:
    low, high = ends
    width = _WIDTH - 2 * _MARGIN
    yield from _text(_MARGIN, top + 4, title, 13)
    bottom = top + 14 + _HEIGHT
    for share, value in ((0.0, low), (1.0, high)):
        edge = bottom - share * _HEIGHT
        yield f'<path d="M{_MARGIN} {edge:g}H{_WIDTH - _MARGIN}" stroke="{_PALE}" stroke-width="0.5"/>'
        yield from _text(_MARGIN - 6, edge + 4, f"{value:.3g}", 11, anchor="end")
    x = _MARGIN + (np.arange(BINS) + 0.5) * width / BINS
    y = bottom - (values - low) / (high - low) * _HEIGHT
    known = np.isfinite(values)
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x[known], y[known], strict=True)]
    colour = _LINE if high == 1.0 and title.startswith("agreement") else _OTHER
    yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for point in points:
        yield f'<circle cx="{point.partition(",")[0]}" cy="{point.partition(",")[2]}" r="2" fill="{colour}"/>'
    yield from _text(_MARGIN, bottom + 16, "first row", 11)
    yield from _text(_WIDTH - _MARGIN, bottom + 16, "last row", 11, anchor="end")


def _joint(joint: Joint, left: int, top: int) -> Iterator[str]:
    cells = len(joint.counts)
    size, most = _SIDE / cells, max(int(joint.counts.max()), 1)
    yield from _text(left, top - 8, f"{joint.name}: then →, now ↑", 12)
    for then, now in np.argwhere(joint.counts).tolist():
        # The square root, so that a few that differ can be seen beside the many that do not.
        shade = (joint.counts[then, now] / most) ** 0.5
        x, y = left + then * size, top + _SIDE - (now + 1) * size
        yield (
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{size:.2f}" height="{size:.2f}" fill="{_LINE}" '
            f'fill-opacity="{max(shade, 0.05):.2f}"><title>{joint.counts[then, now]}</title></rect>'
        )
        if joint.discrete and cells <= 6:
            ink = "white" if shade > 0.6 else _INK
            yield from _text(
                x + size / 2, y + size / 2 + 4, f"{joint.counts[then, now]:,}", 11, anchor="middle", fill=ink
            )
    yield f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_PALE}"/>'
    for (value, anchor), x in zip(((joint.low, "start"), (joint.high, "end")), (left, left + _SIDE), strict=True):
        yield from _text(x, top + _SIDE + 15, f"{value:.3g}", 11, anchor=anchor)


def _text(x: float, y: float, text: str, size: int, **more: str) -> Iterator[str]:
    """A line of text; `anchor` says which end of it is at `x`."""
    style = {"anchor": "start", "fill": _INK, "weight": "normal"} | more
    yield (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{style["anchor"]}" fill="{style["fill"]}" '
        f'font-weight="{style["weight"]}">{escape(text)}</text>'
    )
