"""Where blocks of positions end, and at which of them correlations of scores are found."""

import numpy as np
import pytest

from sigprop.core.numerics.interpolation import cubics
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.position_grid import Layout


@pytest.mark.parametrize(("context", "window"), [(7959, 1627), (6132, 1566), (88, 21), (1024, 100)])
@pytest.mark.parametrize("resolution", [32, 52])
def test_blocks_behind_a_window_are_its_parts(context, window, resolution):
    """One ends it; none is a sliver; before them blocks grow as without a window."""
    layout, free = (make_layout(context, resolution, w) for w in (window, np.inf))
    size = layout.size
    assert window in layout.edges
    behind = size[layout.edges[:-1] >= 2 * window]
    assert set(behind[:-1]) == {window // 8}
    assert (size[1:-1] >= size[:-2] // 2).all()
    assert window // 16 <= size[-1] <= window // 8 + window // 16 + 1
    early = layout.edges[layout.edges < window / 4]
    np.testing.assert_array_equal(early, free.edges[: early.size])


@pytest.mark.parametrize("mask", [{"window": 1566}, {"prefix": 1566}])
def test_blocks_on_either_side_of_a_bend_are_resolved(mask):
    """Behind a window first keys are lost; control: evenly spaced places beside its end."""
    layout = make_layout(6132, 52, **mask)
    behind = np.searchsorted(layout.edges, 1566)
    ends, even = {behind - 1, behind}, Layout(layout.edges)
    assert ends <= set(layout.resolved(10).tolist())
    assert not ends <= set(even.resolved(10).tolist())
    assert len(even.resolved(10)) == 10
    assert len(layout.resolved(10)) <= 12


@pytest.mark.parametrize(("context", "window"), [(2048, 512), (2048, 500), (6132, 1566)])
def test_values_bend_where_a_window_ends(context, window):
    """Control: one cubic across the bend, between the same blocks."""
    layout = make_layout(context, 52, window=window)
    blocks, place = layout.resolved(10), np.log(layout.queries.position)
    behind = place - np.log(window)
    values = np.where(behind > 0, 1 + 2 * behind, np.cos(behind / 3))
    found = values[blocks] @ layout.between(blocks)
    across = values[blocks] @ cubics(place[blocks], place)
    end = np.searchsorted(place[blocks], np.log(window))
    before, first, last = place[blocks][[end - 1, end, -1]]
    held = ((place > np.log(3)) & (place <= before)) | ((place >= first) & (place <= last))
    off, worse = (np.abs(v - values)[held].max() for v in (found, across))
    assert off < 0.001
    assert worse > 0.02


def test_ends_of_segments_of_other_layers_are_resolved():
    layout = Layout(np.arange(65), joints=np.array([16, 32, 48]))
    assert {15, 31, 47} <= set(layout.resolved(10).tolist())
    assert not {15, 31, 47} <= set(Layout(layout.edges).resolved(10).tolist())


def test_values_between_resolved_blocks_are_cubic():
    """Control: lines through the same values."""
    layout = make_layout(4096, 52)
    blocks = layout.resolved(10)
    place = np.log(layout.queries.position)
    values = np.sin(place)
    found = values[blocks] @ layout.between(blocks)
    lines = np.interp(place, place[blocks], values[blocks])
    held = layout.queries.position > 3
    off, worse = (np.abs(v - values)[held].max() for v in (found, lines))
    assert off < 0.04
    assert worse > 2.5 * off
