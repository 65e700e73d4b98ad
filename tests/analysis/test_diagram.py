"""Diagrams: values, regimes, boundaries as curves, files, memory."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sigprop import DomainError, ModelSpec, critical, diagram, exponents, propagate, sweep
from sigprop.analysis.diagram.grid import REGIMES, boundaries, load, rem_curves, save
from sigprop.plotting import plot_diagram, plot_rem, plot_trajectory, save_figure

BETA, ALPHA = np.linspace(0, 4, 33), np.linspace(0.3, 4, 41)


@pytest.fixture(scope="module")
def spec():
    return ModelSpec(depth=24, context=512, beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)


@pytest.fixture(scope="module")
def data(spec):
    return diagram(spec, rho_max=0.98, beta=BETA, alpha_attn=ALPHA)


def test_values_are_those_of_propagate(spec, data):
    for i, j in ((0, 0), (3, 20), (32, 40), (17, 5)):
        t = propagate(spec.replace(beta=BETA[i], alpha_attn=ALPHA[j]))
        assert float(data.rho[i, j]) == pytest.approx(float(t.rho[-1]), abs=1e-7)
        assert float(data.entropy_ratio[i, j]) == pytest.approx(t.entropy_ratio.min(), abs=1e-7)


def test_what_was_asked_stands_beside_the_values(spec):
    """The last tokens of a causal stack, and the limit, are what `propagate` says of each."""
    spec = spec.replace(depth=3, context=16, causal=True)
    axes = {"beta": [0.5, 1.5]}
    late = diagram(spec, geometry="exchangeable", **axes)
    far = diagram(spec, theory="limit", **axes)
    masked = diagram(spec, **axes)
    asked = [(d.attrs["theory"], d.attrs.get("geometry")) for d in (masked, late, far)]
    assert asked == [("finite context", None), ("finite context", "exchangeable"), ("limit", None)]
    many = spec.replace(**axes)
    np.testing.assert_allclose(late.rho, propagate(many, geometry="exchangeable").rho[-1], 1e-7)
    np.testing.assert_allclose(far.rho, propagate(many, "limit").rho[-1], 1e-7)
    assert np.abs(late.entropy_ratio - masked.entropy_ratio).max() > 0.01
    assert np.abs(late.rho - far.rho).max() > 0.01


def test_regimes(data):
    rank = (data.gap_ratio < 0.02).values
    cold = (data.reduced_beta > np.sqrt(2)).values
    np.testing.assert_array_equal(data.regime.values, rank + 2 * cold)
    assert data.attrs["undefined"] == 0
    assert set(np.unique(data.regime)) == set(range(len(REGIMES)))


def test_rank_boundary_is_the_critical_strength(spec, data):
    """The curve lies on the root that `critical` finds, to 5 % of a cell of the grid."""
    exact = critical(spec.replace(beta=data.rank_collapse_x.values), 0.98).alpha_attn
    assert np.abs(data.rank_collapse_y.values - exact).max() < 0.05 * (ALPHA[1] - ALPHA[0])
    assert set(data.rank_collapse_curve.values) == {0}


def test_axes_in_any_order(spec, data):
    turned = diagram(spec, rho_max=0.98, alpha_attn=ALPHA, beta=BETA)
    np.testing.assert_allclose(turned.gap_ratio.values.T, data.gap_ratio.values, rtol=1e-5)


def test_round_trip(data, tmp_path):
    save(data, tmp_path / "a.nc")
    again = load(tmp_path / "a.nc")
    xr.testing.assert_identical(again, data)
    assert boundaries(again)["rank_collapse_x"][1].size == data.rank_collapse_x.size
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_undefined_cells_are_masked_and_counted(spec):
    loose = spec.replace(norm="none", alpha_mlp=1e6, alpha_attn=1e6, depth=60)
    found = diagram(loose, beta=BETA, sigma_w2=np.array([0.0, 1.0]))
    assert found.attrs["undefined"] == found.rho.size
    assert np.isnan(found.rho).all()
    assert (found.regime == -1).all()


def test_three_axes(spec):
    cube = diagram(spec, beta=BETA[:3], alpha_attn=ALPHA[:4], context=np.array([64.0, 512.0]))
    assert cube.rho.dims == ("beta", "alpha_attn", "context")
    assert "rank_collapse_x" not in cube
    assert "rank_collapse_x" in cube.isel(context=0).assign(boundaries(cube.isel(context=0)))


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        ({"nothing": [0, 1]}, "nothing"),
        ({"beta": [1, 0]}, "beta"),
        ({"beta": [1]}, "beta"),
        ({"beta": [-1, 1]}, "beta"),
        ({"beta": [[0, 1]]}, "beta"),
        ({}, "axes"),
    ],
)
def test_refusals(spec, axes, name):
    with pytest.raises(DomainError, match=f"^{name} = "):
        diagram(spec, **axes)


def test_memory_is_flat(spec):
    """Beyond the output, memory does not grow with the number of grid points."""
    peaks = []
    for size in (100, 400):
        wide = spec.replace(
            context="inf",
            depth=5,
            beta=np.linspace(0, 4, size)[:, None],
            alpha_attn=np.linspace(0.3, 4, size),
        )
        sweep(wide)
        tracemalloc.start()
        sweep(wide)
        peaks.append(tracemalloc.get_traced_memory()[1] - 6 * 8 * size**2)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 2e5


def share_seen(axes, x, y, values):
    """Share of points of a drawn panel whose pixel has the colour of the value there."""
    pixels = np.asarray(axes.figure.canvas.buffer_rgba())[..., :3] / 255
    column, row = axes.transData.transform(np.stack([x.ravel(), y.ravel()], axis=1)).T
    seen = pixels[(len(pixels) - 1 - row).astype(int), column.astype(int)]
    field = next(a for a in (*axes.collections, *axes.images) if a.get_array() is not None)
    return np.mean(np.abs(field.to_rgba(values.ravel())[:, :3] - seen).max(axis=1) < 0.02)


@pytest.mark.parametrize("names", [("beta", "alpha_attn"), ("alpha_attn", "beta")])
def test_a_diagram_is_drawn_the_right_way_up(spec, data, names):
    """Pixels at (beta, alpha_attn) have the colour of the statistic there; axes grow up and right.

    Lines, names of regimes and the legend cover some of the pixels: three quarters must agree.
    """
    ticks = {"beta": BETA, "alpha_attn": ALPHA}
    figure = plot_diagram(diagram(spec, rho_max=0.98, **{name: ticks[name] for name in names}))
    FigureCanvasAgg(figure).draw()
    x, y = np.meshgrid(*(ticks[name][1:-1] for name in names), indexing="ij")
    inner = data[["gap_ratio", "entropy_ratio"]].transpose(*names)
    inner = inner.isel({name: slice(1, -1) for name in names})
    for axes, statistic in zip(figure.axes, ("gap_ratio", "entropy_ratio"), strict=False):
        for name, text in zip(names, (axes.get_xlabel(), axes.get_ylabel()), strict=True):
            assert (r"\beta" if name == "beta" else r"\alpha") in text
        assert (axes.transData.transform((1, 1)) > axes.transData.transform((0.5, 0.5))).all()
        values = inner[statistic].values
        assert share_seen(axes, x, y, values) > 0.75
        assert share_seen(axes, x, y, values[::-1, ::-1]) < 0.25  # negative control


def test_the_boundary_is_drawn_on_the_critical_strength(spec, data):
    """Every point of the full line of either panel is a root of rho_L = rho_max."""
    for axes in plot_diagram(data).axes[:2]:
        (line,) = (one for one in axes.lines if one.get_label() == "rank collapse")
        exact = critical(spec.replace(beta=line.get_xdata()), 0.98).alpha_attn
        assert np.abs(line.get_ydata() - exact).max() < 0.05 * (ALPHA[1] - ALPHA[0])


def test_a_trajectory_is_drawn_as_the_statistic_that_labels_its_panel(spec):
    """rho falls short of one by what the second panel shows, also where it is 1e-9 of it."""
    spec = spec.replace(activation="erf", depth=90, alpha_attn=0.8)
    t = propagate(spec)
    assert t.gap[-1] < 1e-8
    first, second, third = plot_trajectory(t).axes
    assert [r"\rho" in axes.get_ylabel() for axes in (first, second)] == [True, True]
    assert ("1 -" in first.get_ylabel(), "1 -" in second.get_ylabel()) == (False, True)
    assert second.get_yscale() == "log"
    (rho,), (deficit,) = first.lines, second.lines
    np.testing.assert_array_equal(rho.get_xdata(), np.arange(91))
    np.testing.assert_array_equal(deficit.get_xdata(), np.arange(91))
    np.testing.assert_allclose(rho.get_ydata(), t.rho, rtol=1e-12)
    np.testing.assert_allclose(rho.get_ydata() + deficit.get_ydata(), 1, atol=1e-12)
    rate = deficit.get_ydata()[-1] / deficit.get_ydata()[-2]
    assert rate == pytest.approx(float(exponents(spec).chi))
    lines = {line.get_label(): line for line in third.lines}
    (y2,) = (line for text, line in lines.items() if "Y_2" in text)
    (entropy,) = (line for text, line in lines.items() if "H" in text)
    np.testing.assert_array_equal(y2.get_xdata(), np.arange(1, 91))
    np.testing.assert_allclose(y2.get_ydata()[-1], 1 / 512, rtol=1e-6)  # merged: uniform
    np.testing.assert_allclose(entropy.get_ydata()[-1], 1, rtol=1e-6)
    np.testing.assert_allclose(y2.get_ydata(), t.y2)
    np.testing.assert_allclose(entropy.get_ydata(), t.entropy_ratio)


def test_figures(spec, data, tmp_path):
    save_figure(plot_diagram(data, "title"), tmp_path / "d.png")
    save_figure(plot_trajectory(propagate(spec)), tmp_path / "t.pdf")
    save_figure(plot_rem(rem_curves([16, 512], np.linspace(0, 3, 20))), tmp_path / "r.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png", "r.svg", "t.pdf"]
