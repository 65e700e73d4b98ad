"""A validated description of a transformer at initialisation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from sigprop.core.arrays import Number
from sigprop.core.checks import array, choice, count, flag, plain, scalar
from sigprop.core.errors import AssumptionError, DomainError, require
from sigprop.model.pattern import overrides, read_by_layer, read_pattern

__all__ = ["ACTIVATIONS", "ATTENTIONS", "NORMS", "ModelSpec"]


NORMS = {  # what a sublayer does to a copy of the stream, in order; "skip" adds the stream
    "post": ("branch", "skip", "norm"),
    "pre": ("norm", "branch", "skip"),
    "none": ("branch", "skip"),
}
ATTENTIONS = ("softmax", "centred")
ACTIVATIONS = ("relu", "gelu", "tanh", "erf", "silu", "linear")
MAX_VARIANCE = 1e6
MAX_POINTS = 10**8

# name: (lowest, highest, lowest is admissible, words)
RANGES = {
    "beta": (0.0, 1e3, True, "a number in [0, 1000]"),
    "sigma_v2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "sigma_o2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "sigma_w2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "sigma_w1_2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "sigma_w2_2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "sigma_b2": (0.0, MAX_VARIANCE, True, "a number in [0, 1e6]"),
    "alpha_attn": (0.0, 1e6, True, "a number in [0, 1e6]"),
    "alpha_mlp": (0.0, 1e6, True, "a number in [0, 1e6]"),
    "norm_gain": (0.0, 1e3, False, "a number in (0, 1000]"),
    "identity": (-1e3, 1e3, True, "a number in [-1000, 1000]"),
    "value_identity": (-1e3, 1e3, True, "a number in [-1000, 1000]"),
    "q0": (0.0, MAX_VARIANCE, False, "a number in (0, 1e6]"),
}
CHOICES = {"norm": tuple(NORMS), "attention": ATTENTIONS, "activation": ACTIVATIONS}
FLAGS = ("causal", "gated", "parallel")
COUNTS = {"depth": (1, 100_000), "heads": (1, 100_000)}


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec:
    r"""Architecture and weight scales of a transformer at initialisation.

    Numbers marked * may be arrays; they broadcast against each other.

    Parameters
    ----------
    depth : int
        Number of blocks L (attention and MLP), in [1, 1e5].
    context : int or array or "inf" *
        Context length T, in [2, 1e12], or infinite (the published limit).
    width : int, optional
        Model width d. None is the limit of infinite width; a number gives heads of width
        d / heads, whose score variance fluctuates (E12).
    heads : int
        Number of attention heads.
    kv_heads : int, optional
        Number of key and value heads, a divisor of `heads`: each serves a group of query heads.
        None is one each. Sharing leaves expectations alone and widens the spread over networks.
    norm : {"post", "pre", "none"}
        Placement of LayerNorm or RMSNorm.
    attention : {"softmax", "centred"}
        A, or A - 1/T (E11).
    causal : bool
        Whether token t sees keys up to t only. Positions are then told apart; the limit of infinite
        context describes the last tokens, which see the whole context, and says so.
    window : int, optional
        Sliding window: a causal token sees this many latest keys, itself included; None sees all.
    prefix : int
        Number of leading tokens that see each other in both directions (causal only), in [0, T].
    documents : sequence of int, optional
        Lengths of packed documents, of sum T: in every layer a causal token sees the earlier tokens
        of its own document alone. Scores keep the scale of T. None is one document.
    chunk : int, optional
        A causal token sees the earlier keys of its own chunk of this many consecutive positions;
        None, and T or more, sees all.
    activation : {"relu", "gelu", "tanh", "erf", "silu", "linear"}
        Activation of the MLP.
    gated : bool
        Gated MLP: activation(gate) times a linear branch.
    mlp_ratio : float
        Hidden width of the MLP over d; enters weight recipes, not the infinite-width theory.
    rotary_base : float, optional
        Base of rotary positions; None without.
    parallel : bool
        Attention and MLP read the same state and add to the stream together (pre-norm only).
    beta : float *
        Inverse temperature: scores have variance beta^2 log T q^2 (E1), in [0, 1000].
    sigma_v2, sigma_o2 : float *
        Variance times fan-in of the value and attention-output matrices.
    sigma_w2, sigma_w1_2, sigma_w2_2 : float *
        Variance times fan-in of the MLP matrices: both, or first and second separately.
    sigma_b2 : float *
        Variance of the value and MLP biases.
    alpha_attn, alpha_mlp : float *
        Residual strengths: the multiplier of the skip branch at each sublayer.
    norm_gain : float *
        Gain of the norms.
    identity : float *
        Identity part gamma of queries and keys: W_Q^T W_K / sqrt(d_h) contains gamma log T / d
        times the identity, so that each token's own key has an advantage (E2b).
    value_identity : float *
        Multiple of the identity that the product of value and output matrices contains.
    rho0 : float *
        Overlap of two input tokens, in [-1/(T-1), 1].
    q0 : float *
        Mean square entry of the input of the first block. A post-norm stack is preceded by its
        norm, so there q0 has no effect.
    pattern : list or dict, optional
        Layers that differ: objects that override parameters (`sigprop.model.pattern.PER_LAYER`), a
        list cycled over the depth, or {"first": [...], "cycle": [...], "last": [...]}. What is
        scanned or recommended applies to every layer that does not override it.
    by_layer : dict, optional
        Lists of numbers by name, one number for each layer.

    Raises
    ------
    DomainError
        If a value is outside its range, or arrays do not broadcast.
    AssumptionError
        If the combination is outside the theory.

    Notes
    -----
    theory.md section 1. Variances are "NTK-style numbers": a weight standard deviation s at
    fan-in n is sigma2 = s^2 n.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> spec = ModelSpec(depth=12, context=512, beta=1.0, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> spec.norm, spec.shape
    ('post', ())
    """

    depth: int
    context: Number
    width: int | None = None
    heads: int = 1
    kv_heads: int | None = None
    norm: str = "post"
    attention: str = "softmax"
    causal: bool = False
    window: int | None = None
    prefix: int = 0
    documents: Any = None
    chunk: int | None = None
    activation: str = "relu"
    gated: bool = False
    mlp_ratio: float = 1.0
    rotary_base: float | None = None
    parallel: bool = False
    beta: Number
    sigma_v2: Number
    sigma_o2: Number = 1.0
    sigma_w2: Number | None = None
    sigma_w1_2: Number = field(default=None)  # type: ignore[assignment]  # filled below
    sigma_w2_2: Number = field(default=None)  # type: ignore[assignment]  # filled below
    sigma_b2: Number = 0.0
    alpha_attn: Number = 1.0
    alpha_mlp: Number = 1.0
    norm_gain: Number = 1.0
    identity: Number = 0.0
    value_identity: Number = 0.0
    rho0: Number
    q0: Number = 1.0
    pattern: Any = None
    by_layer: Any = None

    def __post_init__(self) -> None:
        for name, (low, high) in COUNTS.items():
            self._set(name, count(name, getattr(self, name), low, high))
        if self.width is not None:
            self._set("width", count("width", self.width, 1, 10**9))
            require(self.width >= self.heads, "heads", self.heads, "at most width")
        if self.kv_heads is not None:
            self._set("kv_heads", count("kv_heads", self.kv_heads, 1, self.heads))
            words = f"a divisor of heads = {self.heads}"
            require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, words)
        for name, choices in CHOICES.items():
            choice(name, getattr(self, name), choices)
        for name in FLAGS:
            flag(name, getattr(self, name))
        self._set("mlp_ratio", scalar("mlp_ratio", self.mlp_ratio, 1e-6, 1e6))
        if self.rotary_base is not None:
            self._set("rotary_base", scalar("rotary_base", self.rotary_base, 1.0, 1e12))
        self._numbers()
        self._geometry()
        self._mask()
        self._set("pattern", read_pattern(self.pattern))
        self._set("by_layer", read_by_layer(self.by_layer, self.depth))
        self.layers  # noqa: B018  # raises when an override is inadmissible

    @cached_property
    def layers(self) -> tuple[ModelSpec, ...]:
        """Description of each layer, of one that is uniform; layers that are alike are one object.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> spec = ModelSpec(depth=3, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1,
        ...                    rho0=0, pattern=[{"window": 4}, {}])
        >>> [layer.window for layer in spec.layers]
        [4, None, 4]
        """
        if self.is_uniform:
            return (self,) * self.depth
        plain = replace(self, pattern=None, by_layer=None)
        rows = overrides(self.depth, self.pattern, self.by_layer)
        known = {repr(sorted(row.items())): row for row in rows}
        made = {key: plain.replace(**row) if row else plain for key, row in known.items()}
        return tuple(made[repr(sorted(row.items()))] for row in rows)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are alike."""
        return self.pattern is None and self.by_layer is None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep copies read-only: a pickle and a deep copy forget that their arrays were."""
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        self.__dict__.update(state)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _numbers(self) -> None:
        if self.sigma_w2 is None and (self.sigma_w1_2 is None or self.sigma_w2_2 is None):
            raise DomainError("sigma_w2", None, "a number, or both sigma_w1_2 and sigma_w2_2")
        for name in ("sigma_w1_2", "sigma_w2_2"):
            if getattr(self, name) is None:
                self._set(name, self.sigma_w2)
        for name, (low, high, closed, words) in RANGES.items():
            value = getattr(self, name)
            if value is None and name == "sigma_w2":
                continue
            value = array(name, value)
            above = value >= low if closed else value > low
            require(above & (value <= high), name, value, words)
            self._set(name, plain(value))

    def _geometry(self) -> None:
        infinite = isinstance(self.context, str) and self.context == "inf"
        context = array("context", np.inf if infinite else self.context)
        whole = np.isinf(context) | (context == np.floor(context))
        words = 'an integer in [2, 1e12] or "inf"'
        inside = (context >= 2) & ((context <= 1e12) | np.isinf(context))
        require(inside & whole, "context", context, words)
        rho0 = array("rho0", self.rho0)
        self._set("context", plain(context))
        self._set("rho0", plain(rho0))
        self.shape  # noqa: B018  # raises when the arrays do not fit together
        lowest = np.where(np.isinf(context), 0.0, -1 / (np.minimum(context, 1e300) - 1))
        low, high = np.broadcast_arrays(lowest, rho0)
        require((high >= low) & (high <= 1), "rho0", high, "a number in [-1/(T-1), 1]")
        if np.any(self.identity) and self.norm == "none":
            raise AssumptionError('identity needs a norm: set norm = "pre" or "post"')
        if self.parallel and self.norm != "pre":
            raise AssumptionError('parallel = True needs norm = "pre"')
        if self.parallel and np.any(np.asarray(self.alpha_mlp) != 1):
            raise AssumptionError(
                "parallel = True has one residual branch: set alpha_attn, leave alpha_mlp = 1"
            )

    def _mask(self) -> None:
        context = int(np.min(np.minimum(self.context, 1e12)))
        if self.window is not None:
            self._set("window", count("window", self.window, 1, 10**12))
        self._set("prefix", count("prefix", self.prefix, 0, context))
        if (self.window is not None or self.prefix) and not self.causal:
            raise AssumptionError("window and prefix are parts of a causal mask: set causal = true")
        if self.chunk is not None:
            self._set("chunk", count("chunk", self.chunk, 1, 10**12))
        if self.documents is not None:
            self._set("documents", self._packed(self.documents))
        self._segments()

    def _packed(self, documents: Any) -> tuple[int, ...]:
        """Lengths of packed documents, checked."""
        lengths = array("documents", documents)
        whole = lengths.ndim == 1 and np.all((lengths >= 1) & (lengths == np.floor(lengths)))
        fits = whole and np.all(lengths.sum() == self.context)
        require(bool(fits), "documents", documents, "integers >= 1 whose sum is context")
        return tuple(lengths.astype(int).tolist())

    def _segments(self) -> None:
        """Refuse documents and chunks where they define no mask."""
        if self.documents is None and self.chunk is None:
            return
        if not self.causal:
            raise AssumptionError(
                "documents and chunk are parts of a causal mask: set causal = true"
            )
        if self.prefix:
            raise AssumptionError("documents and chunk exclude prefix: set prefix = 0")
        if self.documents is not None and self.chunk is not None:
            raise AssumptionError("documents exclude chunk: set one of them to null")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Broadcast shape of all array parameters."""
        named = {name: np.shape(getattr(self, name)) for name in self.numbers()}
        try:
            shape = np.broadcast_shapes(*named.values())
        except ValueError:
            shapes = {name: shape for name, shape in named.items() if shape}
            raise DomainError("shape", shapes, "shapes that broadcast together") from None
        require(prod(shape) <= MAX_POINTS, "shape", shape, f"at most {MAX_POINTS:,} points")
        return shape

    @staticmethod
    def numbers() -> tuple[str, ...]:
        """Names of the parameters that may be arrays.

        Returns
        -------
        tuple of str
            The names.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> "beta" in ModelSpec.numbers()
        True
        """
        return ("context", "rho0", *RANGES)

    @property
    def is_segmented(self) -> bool:
        """Whether a token sees the keys of its own document or chunk alone, of several."""
        packed = self.documents is not None and len(self.documents) > 1
        return packed or bool(self.chunk is not None and np.any(self.chunk < self.context))

    @property
    def has_identity(self) -> bool:
        """Whether queries and keys or values have an identity part."""
        return bool(np.any(self.identity) or np.any(self.value_identity))

    def without_identity(self) -> ModelSpec:
        """Copy whose queries, keys and values have no identity part.

        Returns
        -------
        ModelSpec
            The description itself if it has none.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0,
        ...                    identity=0.5)
        >>> spec.has_identity, spec.without_identity().has_identity
        (True, False)
        """
        return self.replace(identity=0.0, value_identity=0.0) if self.has_identity else self

    @property
    def order(self) -> tuple[str, ...]:
        """What a sublayer does to a copy of the stream, in order: "norm", "branch", "skip"."""
        return NORMS[self.norm]

    @property
    def ends_in_norm(self) -> bool:
        """Whether the stream itself is behind a norm."""
        return self.order[-1] == "norm"

    @property
    def reads_norm(self) -> bool:
        """Whether attention and MLP read what is behind a norm."""
        return self.ends_in_norm or self.order[0] == "norm"

    @property
    def head_width(self) -> float | None:
        """Width of one head, or None in the limit of infinite width."""
        return None if self.width is None else self.width / self.heads

    @property
    def heads_per_key(self) -> int:
        """Number of query heads that share one key and value head."""
        return 1 if self.kv_heads is None else self.heads // self.kv_heads

    def replace(self, **changes: Any) -> ModelSpec:
        """Copy with some parameters changed, validated again.

        Parameters
        ----------
        **changes
            Parameters by name. Changing `sigma_w2` changes both MLP layers.

        Returns
        -------
        ModelSpec
            The new description.

        Raises
        ------
        DomainError
            If a name is unknown or a value inadmissible.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
        >>> spec.replace(depth=5).depth
        5
        """
        _known(changes)
        if changes.get("sigma_w2") is not None:
            changes = {"sigma_w1_2": None, "sigma_w2_2": None} | changes
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of every parameter; `ModelSpec.from_dict` reads them back.

        Returns
        -------
        dict
            Arrays are lists, an infinite context is "inf".

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> spec = ModelSpec(depth=2, context="inf", beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
        >>> ModelSpec.from_dict(spec.to_dict()).to_dict() == spec.to_dict()
        True
        """
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in self.numbers():
            if out[name] is not None:
                out[name] = np.asarray(out[name]).tolist()
        context = np.asarray(self.context)
        if np.any(np.isinf(context)):
            out["context"] = np.where(np.isinf(context), "inf", context.astype(object)).tolist()
        elif context.ndim == 0:
            out["context"] = int(context)
        for name in ("documents", "chunk", "pattern", "by_layer"):
            if out[name] is None:
                del out[name]
        for name in {"pattern", "by_layer"} & set(out):
            out[name] = {part: _listed(value) for part, value in out[name].items() if value}
        if "documents" in out:
            out["documents"] = list(out["documents"])
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Read a description from plain values, as in a SPEC.json.

        Parameters
        ----------
        values : mapping
            Parameters by name; lists become arrays.

        Returns
        -------
        ModelSpec
            The validated description.

        Raises
        ------
        DomainError
            If a name is unknown, a required one is missing or a value inadmissible.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> ModelSpec.from_dict({"depth": 2})
        Traceback (most recent call last):
            ...
        sigprop.core.errors.DomainError: context = None is not admissible: expected a value...
        """
        _known(values)
        for name in ("depth", "context", "beta", "sigma_v2", "rho0"):
            if name not in values:
                raise DomainError(name, None, "a value: it is required")
        return cls(**values)


def _listed(values: tuple[Any, ...]) -> list[Any]:
    """Copy of overrides or numbers."""
    return [dict(one) if isinstance(one, dict) else one for one in values]


def _known(values: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(ModelSpec)]
    for name, value in values.items():
        if name not in names:
            from difflib import get_close_matches

            near = get_close_matches(str(name), names, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            shown = name if isinstance(name, str) and name.isidentifier() else ascii(name)
            raise DomainError(shown[:80], value, "a known parameter name" + hint)


def __getattr__(name: str) -> type[ModelSpec]:
    """Name of 0.2, with a warning."""
    if name != "Transformer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    told = f"{__name__}.Transformer is now {__name__}.ModelSpec"
    warnings.warn(told, DeprecationWarning, stacklevel=2)
    return ModelSpec
