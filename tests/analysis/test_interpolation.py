"""Diagrams of decoders: interpolated within the tolerances, against solving every point."""

import sys

import numpy as np
import pytest
import xarray as xr

from sigprop import ModelSpec, diagram, sweep
from sigprop.analysis.diagram import interpolation
from sigprop.analysis.diagram.fields import Plan
from sigprop.analysis.diagram.interpolation import TOLERANCES, interpolated_sweep
from sigprop.analysis.diagram.zarr_store import diagram_store
from sigprop.propagation.capabilities import geometry_of
from sigprop.propagation.grids import rows_by_layer

BETA, ALPHA = np.linspace(0, 3, 32), np.linspace(0.1, 3, 40)
COMMON = {"depth": 4, "context": 32, "beta": 1, "sigma_v2": 1, "sigma_w2": 2, "rho0": 0.1}
SPECS = {
    "pre": ModelSpec(causal=True, norm="pre", **COMMON),
    "post": ModelSpec(causal=True, norm="post", **COMMON | {"depth": 8}),
    "window": ModelSpec(causal=True, norm="pre", window=8, **COMMON),
    "rotary": ModelSpec(causal=True, norm="pre", rotary_base=1e4, width=128, heads=4, **COMMON),
}


def wide(spec, **axes):
    """The spec over the grid of its axes."""
    grids = np.meshgrid(*axes.values(), indexing="ij", sparse=True)
    return spec.replace(**dict(zip(axes, grids, strict=True)))


def excess(spec, found, count=150):
    """Largest error over its tolerance, at random grid points that are solved one by one."""
    places = np.unique(np.random.default_rng(1).integers(0, found.rho.size, count))
    index = np.unravel_index(places, found.rho.shape)
    names = found.rho.dims
    values = {n: found[n].values[i] for n, i in zip(names, index, strict=True)}
    exact = sweep(spec.replace(**values))
    gap, heat = exact.state.gap / exact.state.q, exact.reduced_beta
    own = {name: found[name].values[index] for name in TOLERANCES}
    np.testing.assert_array_equal(np.isnan(own["rho"]), ~exact.defined)
    errors = {
        "rho": own["rho"] - (1 - gap),
        "gap_ratio": own["gap_ratio"] / gap - 1,
        "reduced_beta": (own["reduced_beta"] - heat) / np.where(heat == 0, 1, heat),
        "entropy_ratio": own["entropy_ratio"] - exact.entropy_ratio,
    }
    return max(np.nanmax(np.abs(errors[name])) / bound for name, bound in TOLERANCES.items())


def hottest(spec):
    """Layer of the largest reduced inverse temperature."""
    (_, rows), *_ = rows_by_layer(spec, "position", spec)
    return rows[2 : 2 + spec.depth].argmax(axis=0)


def solved(found):
    """Number of points that were solved."""
    return int(found.attrs["interpolation"].split()[0])


@pytest.mark.parametrize("name", SPECS)
def test_errors_are_within_the_tolerances(name):
    found = diagram(SPECS[name], beta=BETA, alpha_attn=ALPHA)
    assert excess(SPECS[name], found) < 1
    assert solved(found) < found.rho.size / 2


def test_without_the_points_held_out_errors_exceed_the_tolerances(monkeypatch):
    """Negative control: one panel for all, whatever the points held out say."""
    monkeypatch.setattr(interpolation, "SAFETY", 0.0)
    found = diagram(SPECS["pre"], beta=BETA, alpha_attn=ALPHA)
    assert solved(found) <= 7 * 7 + 6
    assert excess(SPECS["pre"], found) > 30


def test_layers_are_interpolated_before_the_largest_is_taken():
    """Where beta exceeds that of even blocks, odd ones are hottest: a kink, but no error."""
    spec = SPECS["pre"].replace(pattern=({"beta": 1.5}, {}))
    axes = {"beta": np.linspace(0, 3, 300)}
    assert set(hottest(spec.replace(beta=axes["beta"][::10]))) == {0, 1}
    found = diagram(spec, **axes)
    assert excess(spec, found) < 1
    assert solved(found) < 60
    smooth = diagram(SPECS["pre"], **axes)
    assert solved(found) < 2 * solved(smooth)


def test_bidirectional_rotary_positions():
    spec = ModelSpec(rotary_base=1e4, width=64, heads=2, **COMMON | {"depth": 2, "context": 16})
    axes = {"beta": np.linspace(0, 2, 24), "alpha_attn": np.linspace(0.5, 2, 24)}
    assert geometry_of(spec) == "distance"
    found = diagram(spec, **axes)
    assert excess(spec, found) < 1
    assert solved(found) < found.rho.size


def test_undefined_points_are_those_of_the_sweep():
    """Scores that exceed s = 40, beyond beta about 21, leave no state."""
    axes = {"beta": np.linspace(0, 40, 32), "alpha_attn": np.linspace(0.1, 3, 25)}
    found, exact = diagram(SPECS["pre"], **axes), sweep(wide(SPECS["pre"], **axes))
    np.testing.assert_array_equal(np.isnan(found.rho), ~exact.defined)
    np.testing.assert_array_equal(found.regime == -1, ~exact.defined)
    assert 0.2 < exact.defined.mean() < 0.8
    assert found.attrs["undefined"] == np.sum(~exact.defined)
    assert excess(SPECS["pre"], found) < 1
    assert solved(found) < found.rho.size


def test_three_axes_of_which_one_is_an_integer():
    """Contexts are solved one by one: the diagrams of each."""
    axes = {"beta": np.linspace(0, 2, 24), "context": np.array([8, 16, 48.0])}
    axes["sigma_w2"] = np.geomspace(0.01, 10, 30)
    found = diagram(SPECS["pre"], **axes)
    assert found.rho.dims == tuple(axes)
    assert excess(SPECS["pre"], found) < 1
    assert solved(found) < 0.7 * found.rho.size
    for context in axes["context"]:
        rest = {name: values for name, values in axes.items() if name != "context"}
        one = diagram(SPECS["pre"].replace(context=context), **rest)
        of_all = found.rho.sel(context=context)
        # both are interpolated
        np.testing.assert_allclose(one.rho, of_all, rtol=0, atol=2 * TOLERANCES["rho"])


def test_three_continuous_axes():
    axes = {"beta": np.linspace(0, 1, 10), "alpha_attn": np.linspace(1, 2, 11)}
    axes["sigma_v2"] = np.linspace(0.5, 1.5, 12)
    spec = SPECS["pre"].replace(depth=2, context=8)
    found = diagram(spec, **axes)
    assert excess(spec, found) < 1
    assert solved(found) < 0.6 * found.rho.size


def test_small_grids_are_solved_throughout():
    axes = {"beta": BETA[::5], "alpha_attn": ALPHA[::8]}
    found, exact = diagram(SPECS["pre"], **axes), sweep(wide(SPECS["pre"], **axes))
    assert "interpolation" not in found.attrs
    np.testing.assert_array_equal(found.gap_ratio, exact.state.gap / exact.state.q)
    np.testing.assert_array_equal(found.entropy_ratio, exact.entropy_ratio)


def test_axes_are_taken_where_their_steps_are_even():
    """Of a geometric axis the logarithm: as many points are solved as of a linear one."""
    steps, linear = np.geomspace(1e-2, 1e2, 300), np.linspace(-1, 1, 300)
    np.testing.assert_array_equal(interpolation._even(steps), np.log(steps))
    np.testing.assert_array_equal(interpolation._even(linear), linear)
    np.testing.assert_array_equal(interpolation._even(linear + 2), linear + 2)
    found = diagram(SPECS["pre"], sigma_w2=steps)
    assert excess(SPECS["pre"], found) < 1
    assert solved(found) < 100


def test_measured_errors_are_those_of_the_points_held_out():
    """They are let through below half of the tolerances, and the words of a diagram say them."""
    axes = {"beta": BETA, "alpha_attn": ALPHA}
    final, tested = interpolated_sweep(wide(SPECS["pre"], **axes), axes, "position")
    assert np.all(tested.errors <= np.array(list(TOLERANCES.values())) / 2)
    assert np.all(tested.errors[[0, 1, 3]] > 1e-9)
    assert 20 < tested.held_out < tested.solved
    found = diagram(SPECS["pre"], **axes)
    assert found.attrs["interpolation"] == tested.words(found.rho.size)
    np.testing.assert_array_equal(found.gap_ratio, final.state.gap / final.state.q)


def test_progress_counts_every_point_once():
    told = []
    found = diagram(SPECS["pre"], progress=told.append, beta=BETA, alpha_attn=ALPHA)
    assert sum(told) == found.rho.size
    assert min(told) >= 0


def test_gradients_are_found_at_every_point():
    axes = {"beta": BETA[::4], "alpha_attn": ALPHA[::4]}
    found = diagram(SPECS["pre"], gradients=True, **axes)
    exact = sweep(wide(SPECS["pre"], **axes))
    assert "interpolation" not in found.attrs
    np.testing.assert_array_equal(found.gap_ratio, exact.state.gap / exact.state.q)


def test_large_grids_are_interpolated_box_by_box(monkeypatch):
    monkeypatch.setattr(interpolation, "ROOM", 10 * 640)  # of 10 rows by layer
    found = diagram(SPECS["pre"], beta=BETA, alpha_attn=ALPHA)
    assert excess(SPECS["pre"], found) < 1


def test_a_store_is_interpolated_chunk_by_chunk(tmp_path, monkeypatch):
    pytest.importorskip("dask", reason="needs the extra distributed")
    monkeypatch.setattr(sys.modules["sigprop.propagation.points"], "CHUNK", 500)
    axes = {"beta": BETA, "alpha_attn": ALPHA}
    data = diagram_store(SPECS["pre"], tmp_path / "d.zarr", **axes)
    assert data.rho.chunks == ((12, 12, 8), (40,))
    assert data.attrs["interpolation"].startswith("where points were not solved, errors")
    assert excess(SPECS["pre"], data.load()) < 1
    plain = diagram(SPECS["pre"], **axes)
    # both are interpolated
    np.testing.assert_allclose(data.rho, plain.rho, rtol=0, atol=2 * TOLERANCES["rho"])
    again = diagram_store(SPECS["pre"], tmp_path / "d.zarr", **axes).load()
    xr.testing.assert_identical(again, data)


def test_an_array_without_axes_is_solved_point_by_point():
    spec = SPECS["pre"].replace(beta=np.array([0.2, 0.9]), alpha_attn=np.array([1.0, 0.4]))
    data = Plan(spec, {}, 0.9, None).values()
    exact = sweep(spec).state
    np.testing.assert_array_equal(data["gap_ratio"], exact.gap / exact.q)
    assert not Plan(spec, {}, 0.9, None).is_interpolated
