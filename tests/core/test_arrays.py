"""Arrays as every module uses them."""

import subprocess
import sys

import numpy as np
import pytest

from sigprop.core.arrays import distinct


@pytest.mark.parametrize("shape", [(0,), (1,), (40,), (3, 5)])
def test_distinct_values_in_order(shape):
    values = np.random.default_rng(0).integers(0, 9, shape)
    np.testing.assert_array_equal(distinct(values), np.unique(values))
    assert distinct(values).dtype == values.dtype


def test_decoders_are_shown_without_masked_arrays():
    """What `numpy.unique` imports where it is first called is a fiftieth of the whole command."""
    asked = "sys.argv = ['sigprop', 'show', 'gpt2', '--json']; from sigprop.cli.app import main"
    told = "print('numpy.ma' in sys.modules, file=sys.stderr)"
    code = f"import sys; {asked}\ntry:\n    main()\nfinally:\n    {told}"
    for more, loaded in (("", False), ("import numpy as np; np.unique([1])\n", True)):
        done = subprocess.run([sys.executable, "-c", more + code], capture_output=True, text=True)
        assert done.stderr.strip().endswith(str(loaded))
