"""Where blocks of positions end, and at which of them correlations of scores are found."""

import numpy as np
import pytest

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


def test_one_block_behind_a_window_is_resolved():
    """Where it ends, the first key is lost; control: evenly spaced places beside it."""
    layout = make_layout(6132, 52, window=1566)
    end = np.abs(np.log(layout.centres.position / 1566)).argmin()
    even = Layout(layout.edges)
    assert end in layout.resolved(10)
    assert end not in even.resolved(10)
    assert len(layout.resolved(10)) == len(even.resolved(10)) == 10


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
