"""What theory predicts for a real model and batch: curve, band, and what it assumes.

The centre is the kernel solver (E25b), which takes the measured token kernel of each sequence, the
mask, rotary positions and each block's own scales, at infinite width. To it the shift of the mean
at finite width is added, the difference of `sigprop.bands` and `sigprop.propagate`. The band has
half width two standard deviations: that over networks, and the standard error of the solver's
draws. The first is the larger of that of `bands` (E26), which knows positions but no differences
between tokens, and that of the draws, which have heads of finite number and width in a stream of
infinite width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats, finite_or_none
from sigprop.core.errors import AssumptionError
from sigprop.model.inputs import admit
from sigprop.model.spec import ModelSpec
from sigprop.propagation.drawn_layer import follow
from sigprop.propagation.gradients.closed_form import gradients
from sigprop.propagation.positional import bands
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate

__all__ = ["COMPARED", "Prediction", "predict"]

COMPARED = ("rho", "y2", "entropy")
DRAWS = 8  # of all sequences together, at least
HALF = 2.0  # half width of the band, in standard deviations


@dataclass(frozen=True)
class Prediction:
    """Predicted trajectories.

    Attributes
    ----------
    mean, std : dict of str to array
        rho of shape (L+1,); y2 and entropy of shape (L,): centre, and standard deviation that the
        band takes twice.
    q, overlap : arrays
        Variance of the stream, shape (L+1,), and overlap of two queries, shape (L,).
    exchangeable : dict of str to array
        The same, and score_std, where tokens overlap alike in every pair.
    gradients : dict of str to array, shape (L,)
        q, wq, wk, wv, w1, w2 as in `sigprop.propagation.gradients.closed_form.gradients`; empty
        where they are undefined.
    notes : tuple of str
        What had to be left out.
    """

    mean: dict[str, Floats]
    std: dict[str, Floats]
    q: Floats
    overlap: Floats
    exchangeable: dict[str, Floats]
    gradients: dict[str, Floats]
    notes: tuple[str, ...]

    def outside(self, name: str, measured: Floats) -> Floats:
        """Distance of a measured curve from the centre, in half widths of the band.

        Parameters
        ----------
        name : str
            One of `COMPARED`.
        measured : array
            Its curve.

        Returns
        -------
        array
            Above one outside the band.
        """
        half = HALF * np.maximum(self.std[name], 1e-12)
        return np.asarray(np.abs(measured - self.mean[name]) / half)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            Nested like the attributes.
        """
        tables = {n: getattr(self, n) for n in ("mean", "std", "exchangeable", "gradients")}
        out: dict[str, Any] = {
            name: {key: finite_or_none(value) for key, value in table.items()}
            for name, table in tables.items()
        }
        columns = {n: finite_or_none(getattr(self, n)) for n in ("q", "overlap")}
        return out | columns | {"notes": list(self.notes)}


def predict(
    spec: ModelSpec, specs: list[ModelSpec], kernel: Floats, rng: np.random.Generator
) -> Prediction:
    """Predict the trajectory of a batch.

    Parameters
    ----------
    spec : ModelSpec
        The whole stack.
    specs : list of ModelSpec
        Its blocks.
    kernel : array, shape (B, T, T)
        Kernels of the sequences at the input of the first block.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    Prediction
        Curves and band.

    Raises
    ------
    AssumptionError
        If the theory knows no such stack.
    DomainError
        If a kernel is not a token kernel.

    Notes
    -----
    theory.md E25b, E26a-E26h. Approximate: the spread over networks and the shift of the mean are
    those of tokens alike but for their positions, to first order in 1/d.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.torch.module_audit.prediction import predict
    >>> spec = ModelSpec(depth=2, context=8, width=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> found = predict(spec, [spec, spec], np.eye(8)[None], np.random.default_rng(0))
    >>> found.mean["rho"].shape, bool(found.std["rho"][1] > 0.03)
    ((3,), True)
    """
    draws = -(-DRAWS // len(kernel))
    starts = [admit(k, int(spec.context)).values for k in kernel]
    runs = [follow(specs, k, 1, rng) for k in starts for _ in range(draws)]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    flat = propagate(spec, geometry="exchangeable")
    reached = len(flat.rho) - 1
    if reached < spec.depth:
        raise AssumptionError(f"theory ends before the stack: {flat.reason}")
    mean = {name: stacked[name].mean(axis=0) for name in COMPARED}
    drawn = {name: stacked[name].std(axis=0, ddof=1) for name in COMPARED}
    notes: tuple[str, ...] = ()
    try:
        wide = bands(spec)
    except AssumptionError as reason:
        wide, notes = None, (f"The band is the spread of the draws alone: {reason}.",)
    spread = drawn.copy()
    if wide is not None:
        base = propagate(spec)
        for name in COMPARED:
            mean[name] = mean[name] + getattr(wide, name) - getattr(base, name)
            spread[name] = np.maximum(getattr(wide, f"{name}_std"), drawn[name])
    # the input is measured: no network in it
    mean["rho"][0], spread["rho"][0] = stacked["rho"][:, 0].mean(), 0.0
    columns = (*COMPARED, "q", "overlap", "score_std")
    return Prediction(
        mean,
        {n: np.hypot(spread[n], drawn[n] / np.sqrt(len(runs))) for n in COMPARED},
        stacked["q"].mean(axis=0),
        stacked["overlap"].mean(axis=0),
        {name: getattr(flat, name) for name in columns},
        _gradients(spec, flat if wide is None else wide),
        notes,
    )


def _gradients(spec: ModelSpec, trajectory: Trajectory) -> dict[str, Floats]:
    found = gradients(spec, trajectory)
    return {name: getattr(found, name) for name in ("q", "wq", "wk", "wv", "w1", "w2")}
