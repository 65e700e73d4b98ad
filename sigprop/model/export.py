r"""What to type: the standard deviation of every matrix of a description, and code that draws it.

A variance sigma2 at fan-in n is a standard deviation sqrt(sigma2/n) (theory.md section 1); query
and key matrices share :math:`\sigma^2 = \beta\sqrt{\log T}`. Real code has no residual multiplier.
Behind a norm only ratios matter, so a multiplier can be folded into the matrices that write to the
stream, exactly: post-norm :math:`LN(\alpha x + f) = LN(x + f/\alpha)`; pre-norm, with
:math:`y_l = x_l/\prod\alpha`, branch l is divided by the product of all multipliers up to its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError, DomainError, require
from sigprop.core.version import __version__
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import require_theory

__all__ = ["MATRICES", "Prescription", "prescribe"]

MATRICES = ("query", "key", "value", "output", "gate", "w1", "w2")
SCALES = ("beta", "sigma_v2", "sigma_o2", "sigma_w1_2", "sigma_w2_2", "sigma_b2", "alpha_attn",
          "alpha_mlp", "norm_gain")  # fmt: skip
WRITERS = {"output": "alpha_attn", "w2": "alpha_mlp"}


@dataclass(frozen=True)
class Prescription:
    """Scales of every matrix, block by block.

    Attributes
    ----------
    spec : ModelSpec
        The description.
    beta : array, shape (L,)
        Inverse temperature of each block.
    variance : dict of str to array, shape (L,)
        Variance times fan-in of each matrix, residual multipliers folded in where `folded`.
    bias : dict of str to array, shape (L,)
        Variance of each bias; query, key and output have none.
    folded : bool
        Whether the residual multipliers are in the variances; without a norm they cannot be.

    Examples
    --------
    >>> from sigprop import example
    >>> from sigprop.model.export import prescribe
    >>> found = prescribe(example("bert-base").spec)
    >>> round(float(found.std()["query"][0]), 6)
    0.02
    """

    spec: ModelSpec
    beta: Floats
    variance: dict[str, Floats]
    bias: dict[str, Floats]
    folded: bool

    def std(self) -> dict[str, Floats]:
        """Find the standard deviation of each matrix in each block; empty without a width.

        Returns
        -------
        dict of str to array, shape (L,)
            By name of the matrix.
        """
        if self.spec.width is None:
            return {}
        hidden = self.spec.mlp_ratio * self.spec.width
        fan_in = dict.fromkeys(MATRICES, float(self.spec.width)) | {"w2": hidden}
        return {name: np.sqrt(v / fan_in[name]) for name, v in self.variance.items()}

    def huggingface(self) -> dict[str, Any]:
        """Entries for a config.json: the key "sigprop" that `sigprop.load` reads.

        Returns
        -------
        dict
            The parameters under "sigprop" (beta of the first block where it differs by block) and
            the standard deviations under "sigprop_std".

        Examples
        --------
        >>> from sigprop import example, from_config
        >>> from sigprop.model.export import prescribe
        >>> spec = example("gpt2").spec.replace(beta=1.5)
        >>> entries = prescribe(spec).huggingface()
        >>> from_config({"model_type": "gpt2", "sigprop": entries["sigprop"]}).spec.beta
        1.5
        """
        values = {name: float(np.asarray(getattr(self.spec, name))) for name in SCALES}
        values["beta"] = float(self.beta[0])
        return {"sigprop": values, "sigprop_std": plain(self.std())}

    def pytorch(self) -> str:
        """Python source of `init_weights(model)` for the models that `sigprop.torch.audit` reads.

        Returns
        -------
        str
            A module that needs PyTorch alone: it finds every matrix of every block by type, shape
            and role, as `sigprop.torch.initialise_` does, and raises on what it cannot place.
            Embeddings and heads are left as they are.

        Examples
        --------
        >>> from sigprop import example
        >>> from sigprop.model.export import prescribe
        >>> code = prescribe(example("opt-125m").spec).pytorch()
        >>> compile(code, "init.py", "exec") is not None
        True
        """
        source = files("sigprop").joinpath("torch", "placement.py").read_text(encoding="utf-8")
        head, placement = source.split("\nfrom sigprop.core.errors import AssumptionError\n")
        return CODE.format(
            version=__version__,
            depth=self.spec.depth,
            context=self.spec.to_dict()["context"],
            alpha=self._remaining(),
            imports=head.split('"""')[2].lstrip(),
            variance=_source(self.variance),
            bias=_source(self.bias),
            gain=self.norm_gain,
            placement=placement,
        )

    @property
    def norm_gain(self) -> float | None:
        """Gain of the norms; None without norms."""
        return float(np.asarray(self.spec.norm_gain)) if "norm" in self.spec.order else None

    def _remaining(self) -> str:
        """Multipliers that the weights do not have, as a sentence for the code."""
        values = {name: float(np.asarray(getattr(self.spec, name))) for name in WRITERS.values()}
        if self.folded or set(values.values()) == {1.0}:
            return ""
        return f"\n\nIn forward(), multiply the skip branches by {values}."


@validated
def prescribe(spec: ModelSpec, beta_by_layer: ArrayLike | None = None) -> Prescription:
    """Scales of every matrix of a description.

    Parameters
    ----------
    spec : ModelSpec
        A single description of finite context.
    beta_by_layer : array_like, shape (L,), optional
        Inverse temperature of each block, in place of `spec.beta`.

    Returns
    -------
    Prescription
        The scales.

    Raises
    ------
    AssumptionError
        If the spec has arrays or an infinite context, or a residual multiplier is zero.
    DomainError
        If `beta_by_layer` has not one finite number >= 0 for each block.

    Notes
    -----
    theory.md section 1; the folding of multipliers is exact at infinite width, for the forward
    pass and the gradients of the stream alike. Pre-norm it also takes q0 over, which it does not
    change. W_2's bias folds with its matrix.

    Examples
    --------
    >>> from sigprop import example
    >>> from sigprop.model.export import prescribe
    >>> found = prescribe(example("gpt2").spec.replace(alpha_attn=2.0))
    >>> [round(float(v / 0.0128), 6) for v in found.variance["output"][:2]]
    [0.25, 0.0625]
    """
    require_theory(spec, "prescribe")
    beta = np.asarray(spec.beta if beta_by_layer is None else beta_by_layer, float)
    if beta.shape not in ((), (spec.depth,)):
        raise DomainError("beta_by_layer", beta.shape, f"one number for each of {spec.depth}")
    require((beta >= 0) & np.isfinite(beta), "beta_by_layer", beta, "numbers >= 0")
    query = np.broadcast_to(beta, spec.depth) * np.sqrt(np.log(spec.context))
    variance = {"query": query, "key": query} | {
        name: np.full(spec.depth, float(np.asarray(value)))
        for name, value in (
            ("value", spec.sigma_v2),
            ("output", spec.sigma_o2),
            ("gate", spec.sigma_w1_2),
            ("w1", spec.sigma_w1_2),
            ("w2", spec.sigma_w2_2),
        )
        if name != "gate" or spec.gated
    }
    noise = np.full(spec.depth, float(np.asarray(spec.sigma_b2)))
    bias = {name: noise for name in ("value", "w1", "w2")}
    scaled = spec.order[spec.order.index("skip") - 1] == "branch"  # else a norm takes the scale
    folded = scaled and spec.reads_norm
    if folded:
        shares = _shares(spec)
        variance |= {name: variance[name] * share for name, share in shares.items()}
        bias["w2"] = noise * shares["w2"]
    return Prescription(spec, np.broadcast_to(beta, spec.depth), variance, bias, folded)


def _shares(spec: ModelSpec) -> dict[str, Floats]:
    """Factor on the variance of the matrices that write to the stream, which folds the alphas."""
    attention, mlp = (float(np.asarray(getattr(spec, a))) for a in WRITERS.values())
    if attention == 0 or mlp == 0:
        raise AssumptionError("alpha = 0 has no skip branch: it cannot be folded into weights")
    if spec.ends_in_norm:
        shares = np.full((2, spec.depth), [[attention**-2.0], [mlp**-2.0]])
    elif spec.parallel:
        shares = np.broadcast_to(
            attention ** (-2.0 * np.arange(1, spec.depth + 1)), (2, spec.depth)
        )
    else:
        order = np.tile([attention, mlp], spec.depth)
        shares = np.cumprod(order**-2.0).reshape(spec.depth, 2).T
    return dict(zip(WRITERS, shares, strict=True))


def plain(columns: dict[str, Floats]) -> dict[str, Any]:
    """One number where all blocks agree, else a list.

    Parameters
    ----------
    columns : dict of str to array, shape (L,)
        Values by block.

    Returns
    -------
    dict of str to float or list
        JSON values.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.model.export import plain
    >>> plain({"w1": np.array([0.5, 0.5]), "w2": np.array([0.5, 0.25])})
    {'w1': 0.5, 'w2': [0.5, 0.25]}
    """
    return {n: float(v[0]) if np.all(v == v[0]) else v.tolist() for n, v in columns.items()}


def _source(columns: dict[str, Floats]) -> str:
    rows = (
        f"    {name!r}: [{value}] * {len(columns[name])},"
        if isinstance(value, float)
        else f"    {name!r}: {value},"
        for name, value in plain(columns).items()
    )
    return "{\n" + "\n".join(rows) + "\n}"


CODE = '''"""Initialisation by sigprop {version}: {depth} blocks, context {context}.

    init_weights(model)  # in place, before training; needs PyTorch alone

Every matrix and bias of every block is drawn, or nothing is: what cannot be placed raises
`AssumptionError`. What is outside the blocks (embeddings, heads) is left as it is.{alpha}
"""
{imports}# variance times fan-in, and variance of the biases, block by block
VARIANCE = {variance}
BIAS = {bias}
NORM_GAIN = {gain}


def init_weights(model: nn.Module, batch: Any = None, seed: int = 0) -> tuple[Change, ...]:
    """Draw all blocks anew; returns each matrix with its standard deviation before and after.

    `batch`, what the forward pass takes, is needed only where one projection has queries, keys and
    values and the model takes no token ids.
    """
    return draw(model, find_blocks(model, batch), VARIANCE, BIAS, NORM_GAIN, seed)


class AssumptionError(Exception):
    """The model is none that these numbers are for."""

{placement}'''
