"""Results as labelled arrays and tables hold the numbers of their attributes."""

import numpy as np
import pytest

from sigprop import ModelSpec, bands, beta_profile, critical, exponents, gradients, propagate

SPEC = ModelSpec(depth=3, context=8, width=32, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
MANY = SPEC.replace(beta=[0.5, 1.0], sigma_v2=[[1.0], [2.0], [3.0]])
RESULTS = {
    "propagate": lambda: propagate(SPEC),
    "arrays": lambda: propagate(MANY),
    "bands": lambda: bands(SPEC),
    "positions": lambda: propagate(SPEC.replace(causal=True), blocks=2).positions,
    "distances": lambda: propagate(SPEC.replace(rotary_base=1e3)).distances,
    "gradients": lambda: gradients(SPEC),
    "critical": lambda: critical(MANY, 0.9),
    "profile": lambda: beta_profile(SPEC, 0.7),
    "exponents": lambda: exponents(MANY),
}


@pytest.mark.parametrize("name", RESULTS)
def test_labelled_arrays_are_the_attributes(name):
    found = RESULTS[name]()
    data = found.to_dataset()
    arrays = {n for n, v in vars(found).items() if isinstance(v, np.ndarray)}
    left_out = {"layer", "edges", "position", "ended", "reason"}  # axes, and how it ended
    assert arrays - left_out <= set(data.data_vars)
    for one in data.data_vars:
        np.testing.assert_array_equal(data[one].values, np.asarray(getattr(found, one)))


def test_axes_are_named():
    data = propagate(MANY).to_dataset()
    assert data.rho.dims == ("layer", "point_0", "point_1")
    assert data.y2.dims == ("block", "point_0", "point_1")
    assert data.layer.values.tolist() == [0, 1, 2, 3]
    assert data.block.values.tolist() == [1, 2, 3]


def test_a_row_of_the_table_is_a_layer():
    found = propagate(SPEC)
    frame = found.to_frame()
    assert frame.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(frame.rho, found.rho)
    np.testing.assert_array_equal(frame.y2[1:], found.y2)  # of block l, behind which layer l is
    assert np.isnan(frame.y2[0])


def test_points_of_an_array_are_rows():
    found = propagate(MANY)
    frame = found.to_frame()
    assert len(frame) == 4 * 6
    assert frame.rho.loc[(2, 1, 0)] == found.rho[2, 1, 0]
    assert frame.y2.loc[(2, 1, 0)] == found.y2[1, 1, 0]


def test_a_result_without_axes_is_one_row():
    frame = exponents(SPEC).to_frame()
    assert frame.shape == (1, 4)
    assert frame.chi.iloc[0] == exponents(SPEC).chi
