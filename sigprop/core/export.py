"""Results as labelled arrays (xarray) and as tables (pandas)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import xarray

__all__ = ["Exported"]


class Exported:
    """Base of results: each names the axes of its arrays in `AXES`.

    An axis "layer" runs from 0, the input, to L; an axis "block" from 1 to L. Axes of an array of
    specs follow, as point_0, point_1, ...

    Examples
    --------
    >>> from sigprop import ModelSpec, propagate
    >>> spec = ModelSpec(depth=2, context=8, beta=[0.5, 1], sigma_v2=1, sigma_w2=2, rho0=0)
    >>> dict(propagate(spec).to_dataset().sizes)
    {'layer': 3, 'point_0': 2, 'block': 2}
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {}

    def _labelled(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Arrays by name, with the names of their axes."""
        out = {}
        for name, axes in self.AXES.items():
            value = getattr(self, name)
            if value is not None:
                array = np.asarray(value)
                points = tuple(f"point_{i}" for i in range(array.ndim - len(axes)))
                out[name] = ((*axes, *points), array)
        return out

    def to_dataset(self) -> xarray.Dataset:
        """Labelled arrays.

        Returns
        -------
        xarray.Dataset
            One variable for each array of the result.

        Examples
        --------
        >>> from sigprop import ModelSpec, propagate
        >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
        >>> propagate(spec).to_dataset().y2.dims
        ('block',)
        """
        import xarray as xr

        data = xr.Dataset(self._labelled())
        first = {"layer": 0, "block": 1}
        known = {name: np.arange(data.sizes[name]) + first[name]
                 for name in first if name in data.sizes}  # fmt: skip
        return data.assign_coords(known)

    def to_frame(self) -> Any:
        """Table with one row for each layer (and point of an array of specs).

        Returns
        -------
        pandas.DataFrame
            Statistics of a block stand in the row of the layer behind it; arrays with further axes
            are left out.

        Examples
        --------
        >>> from sigprop import ModelSpec, propagate
        >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
        >>> propagate(spec).to_frame().shape[0]
        3
        """
        data = self.to_dataset()
        if "block" in data.dims and "layer" in data.dims:
            blocks = [name for name in data.data_vars if "block" in data[name].dims]
            behind = data[blocks].rename(block="layer").reindex(layer=data.layer)
            data = data.drop_vars([*blocks, "block"]).merge(behind)
        rows = [n for n in data.dims if n in ("layer", "block") or str(n).startswith("point_")]
        flat = [name for name in data.data_vars if set(data[name].dims) <= set(rows)]
        return data[flat].to_dataframe() if rows else data[flat].expand_dims("row").to_dataframe()
