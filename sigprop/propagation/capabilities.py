"""What no theory covers: one table of refusals, structure by command, that every command asks.

A row names a structure of the spec, the commands that refuse it, and what is missing. Most rows
hold or do not hold of a spec before anything is computed (`require_theory`); the others show only
while its state is solved (`refusal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.checks import choice
from sigprop.core.errors import AssumptionError
from sigprop.layers.attention.correlation_table import BASES, NARROWEST
from sigprop.layers.attention.correlation_table import covers as is_tabulated
from sigprop.layers.attention.rotation import Rotation
from sigprop.model.pattern import overridden
from sigprop.model.spec import ModelSpec

__all__ = [
    "GEOMETRIES",
    "MAX_POSITIONS",
    "MAX_ROTARY",
    "TABLE",
    "THEORIES",
    "UNSETTLED",
    "Row",
    "TheoryError",
    "covers",
    "geometry_of",
    "has_positions",
    "is_causal",
    "is_drawn",
    "is_looked_up",
    "is_rotary",
    "is_segmented",
    "max_context",
    "refusal",
    "require_theory",
]

THEORIES = ("finite", "limit")  # exact at the context length; published, of infinite context
GEOMETRIES = ("auto", "exchangeable")
# without positions
ALIKE: dict[str, Any] = {
    "causal": False, "window": None, "prefix": 0, "documents": None, "chunk": None,
    "rotary_base": None,
}  # fmt: skip
MAX_POSITIONS = 2**20  # tokens whose positions are told apart
MAX_ROTARY = 2**17  # likewise where the scores of rotated keys are drawn
MAX_SAMPLED = 2048  # tokens up to which T^3 operations a layer and draw are affordable
SMALLEST_GAIN = 1e-150  # whose square, the variance behind a norm, keeps its digits

FORWARD = ("propagate", "sweep", "critical", "diagram")
RATES = ("exponents", "fixed_points", "asymptotic_alpha", "gradient_exponent")
LIMITS = ("fixed_points", "gradient_exponent")  # states in which stacks settle
UNSETTLED = "no state in which tokens settle"
COLLAPSE = ("exponents", "asymptotic_alpha")  # rates where all tokens have merged
HEAT = ("beta_profile", "entropy_boundary")
DESIGN = ("judge", "recommend", "prescribe", "schemes", "folklore")
WHOLE = "set documents = null and chunk = null for contexts that tokens see whole"
LATE = "set causal = false and rotary_base = null for what late tokens see"


class TheoryError(AssumptionError):
    """No theory covers a structure in a command: a row of `TABLE`.

    Parameters
    ----------
    structure, command : str
        Name of the row, and who was asked.
    missing : str
        What is missing.

    Examples
    --------
    >>> from sigprop.propagation.capabilities import TheoryError
    >>> raise TheoryError("arrays", "fixed_points", "a single spec is needed")
    Traceback (most recent call last):
        ...
    sigprop.propagation.capabilities.TheoryError: arrays in fixed_points: a single spec is needed
    """

    def __init__(self, structure: str, command: str, missing: str) -> None:
        self.structure, self.command, self.missing = structure, command, missing
        super().__init__(f"{structure} in {command}: {missing}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.structure, self.command, self.missing)


class Row(NamedTuple):
    """One refusal.

    Attributes
    ----------
    structure : str
        What the spec has, in the words of the specification.
    commands : tuple of str
        Who refuses it.
    missing : str
        The theory that is missing, and what to ask instead.
    holds : callable or None
        Whether a spec, asked at its context or in the limit, has the structure; None where that
        shows only while its state is solved.

    Examples
    --------
    >>> from sigprop.propagation.capabilities import Row
    >>> Row("depth", ("exponents",), "no theory", None).structure
    'depth'
    """

    structure: str
    commands: tuple[str, ...]
    missing: str
    holds: Callable[[ModelSpec, str], bool] | None


def _is_infinite(spec: ModelSpec, theory: str) -> bool:
    return theory == "limit" or bool(np.any(np.isinf(spec.context)))


def _is_mixed(spec: ModelSpec, theory: str) -> bool:
    infinite = np.isinf(spec.context)
    return theory != "limit" and bool(np.any(infinite) and not np.all(infinite))


def is_causal(spec: ModelSpec, theory: str = "finite") -> bool:
    """Whether any layer has a causal mask."""
    return any(layer.causal for layer in set(spec.layers))


def is_rotary(spec: ModelSpec, theory: str = "finite") -> bool:
    """Whether any layer has rotary positions."""
    return any(layer.rotary_base is not None for layer in set(spec.layers))


def is_segmented(spec: ModelSpec, theory: str = "finite") -> bool:
    """Whether tokens of any layer see their own document or chunk alone."""
    return any(layer.is_segmented for layer in set(spec.layers))


def has_positions(spec: ModelSpec) -> bool:
    """Whether tokens at different positions differ in any layer."""
    return is_causal(spec) or is_rotary(spec)


def _has_positions(spec: ModelSpec, theory: str) -> bool:
    """Whether tokens at different positions differ, at finite context."""
    finite = theory != "limit" and not np.all(np.isinf(spec.context))
    return finite and has_positions(spec)


def _is_alone(spec: ModelSpec) -> bool:
    """Whether every block is uniform attention alone."""
    return not any(np.any(s.beta) or np.any(s.sigma_w2_2 * s.sigma_w1_2) for s in set(spec.layers))


def is_drawn(spec: ModelSpec) -> bool:
    """Whether the scores of rotated keys are drawn: no table holds them.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.capabilities import is_drawn
    >>> spec = ModelSpec(depth=1, context=8, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> is_drawn(spec), is_drawn(spec.replace(causal=True))
    (True, False)
    """
    turned = [one for one in spec.layers if one.rotary_base is not None]
    return bool(turned) and not (is_causal(spec) and all(map(is_looked_up, turned)))


def is_looked_up(layer: ModelSpec) -> bool:
    """Whether scores under the causal mask of a layer are looked up: unrotated, or in a table."""
    return layer.rotary_base is None or is_tabulated(Rotation(layer.rotary_base), layer.head_width)


def max_context(spec: ModelSpec) -> int:
    """Longest context at which positions are told apart."""
    return MAX_ROTARY if is_drawn(spec) else MAX_POSITIONS


def _is_far(spec: ModelSpec) -> bool:
    """Whether some context is too long for its positions to be told apart."""
    context = np.asarray(spec.context)
    return bool(np.any((context > max_context(spec)) & np.isfinite(context)))


TABLE = (
    Row("context mixes finite and infinite values", (*FORWARD, *RATES, *HEAT, "attention"),
        "they have different theories; run them apart", _is_mixed),
    Row("documents or chunk in the limit of infinite context", (*FORWARD, "judge"),
        f"what a token sees has an end; ask for a finite context, or {WHOLE}",
        lambda s, theory: is_segmented(s) and _is_infinite(s, theory)),
    Row("documents or chunk",
        (*RATES, *HEAT, "bands", "late_gradients", "recommend", "prescribe", "grow", "schemes",
         "folklore"),
        f"tokens of different documents or chunks share no keys; {WHOLE}", is_segmented),
    Row("documents or chunk with identity or value_identity", ("propagate",),
        f"identity parts have no theory by position; set them to 0, or {WHOLE}",
        lambda s, theory: is_segmented(s) and s.has_identity),
    Row("norm_gain below 1e-150", (*FORWARD, *RATES, *HEAT, "bands", "gradients"),
        "the variance behind the norm, its square, is no floating-point number",
        lambda s, theory: "norm" in s.order and bool(np.any(np.less(s.norm_gain, SMALLEST_GAIN)))),
    Row("causal = true or rotary_base in the limit of infinite context", LIMITS,
        f"what the first tokens settle in depends on the context; ask for a finite one, or {LATE}",
        lambda s, theory: has_positions(s) and not _has_positions(s, theory)),
    Row("rotary_base without causal = true", COLLAPSE,
        f"tokens that have merged are still told apart by distance; {LATE}",
        lambda s, theory: is_rotary(s) and not is_causal(s)),
    Row("prefix above one", COLLAPSE,
        "the first tokens are more than two that see each other; set prefix = 0",
        lambda s, theory: is_causal(s) and s.prefix > 1),
    Row("causal = true in the limit of infinite context", COLLAPSE,
        f"the first tokens see few keys; ask for a finite context, or {LATE}",
        lambda s, theory: is_causal(s) and not _has_positions(s, theory)),
    Row("norm = 'none' with causal = True", (*FORWARD, *HEAT, "bands", "grow"),
        f"tokens differ in size, and scores with them; {LATE}, or ask for the limit",
        lambda s, theory: not s.reads_norm and is_causal(s) and _has_positions(s, theory)),
    Row("norm = 'none' with causal = true or rotary_base", ("gradients", "gradient_exponent"),
        f"tokens differ in size, and scores with them; {LATE}",
        lambda s, theory: not s.reads_norm and _has_positions(s, theory)),
    Row("norm = 'none' with causal = true or rotary_base, beyond uniform attention",
        ("influence",),
        "tokens differ in size, and scores with them; beta = 0 and sigma_w2 = 0 leave attention "
        "alone, whose influence is known",
        lambda s, theory: not s.reads_norm and _has_positions(s, theory) and not _is_alone(s)),
    Row(f"context above {MAX_POSITIONS} with causal = true",
        (*FORWARD, *HEAT, *LIMITS, "bands", "gradients", "influence", "grow"),
        f"positions are resolved up to {MAX_POSITIONS} tokens; {LATE}, or ask for the limit",
        lambda s, theory: not is_drawn(s) and _has_positions(s, theory) and _is_far(s)),
    Row(f"context above {MAX_ROTARY} with rotary_base",
        (*FORWARD, *HEAT, *LIMITS, "bands", "gradients", "influence", "grow"),
        f"rotary positions are resolved up to {MAX_ROTARY} tokens without a mask, in heads "
        f"narrower than {NARROWEST:g} and at bases outside {BASES}; {LATE}, or ask for the limit",
        lambda s, theory: is_drawn(s) and _has_positions(s, theory) and _is_far(s)),
    Row("identity or value_identity with causal = true or rotary_base",
        ("sweep", "critical", "diagram", *HEAT, *RATES, "bands", "gradients", "grow"),
        f"identity parts have no theory by position; {LATE}",
        lambda s, theory: s.has_identity and _has_positions(s, theory)),
    Row("identity with an infinite context", (*FORWARD, *RATES, *HEAT, "attention"),
        "the own key's advantage grows as log T; identity needs a finite context",
        lambda s, theory: bool(np.any(s.identity)) and _is_infinite(s, theory)),
    Row("identity", (*HEAT, "diagram", "grow"),
        "the entropy depends on the overlap too, not on beta sqrt(q gap) alone",
        lambda s, theory: bool(np.any(s.identity))),
    Row("identity or value_identity",
        ("bands", "gradients", "influence", "gradient_exponent", "recommend"),
        "identity parts have no theory of gradients nor of their spread over networks",
        lambda s, theory: s.has_identity),
    Row("value_identity with norm = 'pre'", ("exponents",),
        "q grows with its own square root too, and its fixed point is not solved",
        lambda s, theory: s.order[0] == "norm" and bool(np.any(s.value_identity))),
    Row("norm = 'none'", ("exponents", "sampled_gradients"),
        "without norms q drifts, and tokens differ in size; set norm = 'post' or 'pre'",
        lambda s, theory: not s.reads_norm),
    Row("norm other than 'post'", ("fixed_points",),
        "the overlap has fixed points where q is fixed; set norm = 'post'",
        lambda s, theory: not s.ends_in_norm),
    Row("arrays",
        ("fixed_points", "bands", "sampled_gradients", "blocks", "influence", "grow", *DESIGN),
        "a single spec is needed", lambda s, theory: s.shape != ()),
    Row("infinite context",
        ("bands", "gradients", "influence", "blocks", "recommend", "prescribe", "grow", "schemes",
         "folklore"),
        "fluctuations, gradients of scores, weights and positions depend on T; a finite context is "
        "needed",
        _is_infinite),
    Row(f"context above {MAX_SAMPLED}", ("sampled_gradients",),
        f"T x T matrices are drawn, for at most {MAX_SAMPLED} tokens",
        lambda s, theory: bool(np.any(np.greater(s.context, MAX_SAMPLED)))),
    Row("rotary_base with width = null", ("sampled_gradients",),
        "rotary positions depend on the width of a head; give a width",
        lambda s, theory: is_rotary(s) and s.width is None),
    Row("width that heads do not divide", ("sampled_gradients",),
        "heads of one width are sampled", lambda s, theory: bool(s.width and s.width % s.heads)),
    Row("width = null", ("bands",),
        "networks differ by terms in 1/width; give a width", lambda s, theory: s.width is None),
    Row("pattern or by_layer", (*COLLAPSE, *HEAT, "bands", *DESIGN),
        "layers that differ have no common fixed point, spread or design; ask propagate, critical "
        "or diagram, or describe a uniform stack",
        lambda s, theory: not s.is_uniform),
    Row("beta in pattern or by_layer", ("grow",),
        "rules for scores scale the inverse temperature that all layers have; override others",
        lambda s, theory: "beta" in overridden(s.pattern, s.by_layer)),
    Row("by_layer, or a pattern without causal = true or rotary_base", LIMITS,
        "layers that differ settle where they repeat, and positions are resolved; describe a "
        "uniform stack, or a pattern of decoders",
        lambda s, theory: s.by_layer is not None or not (s.is_uniform or has_positions(s))),
    Row("no causal mask that is resolved", ("causal",),
        f"a single causal spec with norms is needed, of at most {MAX_POSITIONS} tokens, or "
        f"{MAX_ROTARY} where rotated scores are drawn", None),
    Row("no rotary positions that are resolved", ("by_distance",),
        f"a single bidirectional spec with a rotary base is needed, of at most {MAX_ROTARY} "
        "tokens", None),
    Row("a state that vanishes or overflows",
        ("propagate", "beta_profile", "exponents", "bands", "gradients"),
        "nothing passes {where}: all branches are zero, a scale overflows, scores exceed s = 40, "
        "or an activation without closed form meets a variance above 100", None),
    Row(UNSETTLED, LIMITS,
        "the state of independent tokens vanishes, overflows or drifts: before a norm it grows "
        "unless skips shrink it, and at a critical strength it changes ever more slowly", None),
    Row("networks that differ too much", ("bands",),
        "bands are undefined from {where} on: the state vanishes, or the networks' kernels differ "
        "by more than a factor e^3", None),
    Row("tokens that merge", ("beta_profile", "bands"),
        "tokens do not differ beyond rounding in {where}: no beta holds the entropy, and no "
        "spread is known",
        None),
    Row("beta above 1000", ("beta_profile",),
        "no admissible inverse temperature holds the entropy in {where}", None),
)  # fmt: skip


def _error(row: Row, command: str, **words: str) -> TheoryError:
    return TheoryError(row.structure, command, row.missing.format(**words))


def require_theory(
    spec: ModelSpec, command: str, theory: str = "finite", geometry: str = "auto"
) -> None:
    """Refuse a spec that has a structure which no theory of a command covers.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.
    command : str
        Who asks, one of those in `TABLE`.
    theory : {"finite", "limit"}
        What is asked for: the theory at the context length, or at infinite context.
    geometry : {"auto", "exchangeable"}
        Whether tokens are told apart where they differ, or late ones described.

    Raises
    ------
    TheoryError
        The first row of `TABLE` that holds.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.capabilities import require_theory
    >>> spec = ModelSpec(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> require_theory(spec, "critical")
    >>> require_theory(spec.replace(norm="pre"), "fixed_points")
    Traceback (most recent call last):
        ...
    sigprop.propagation.capabilities.TheoryError: norm other than 'post' in fixed_points: ...
    """
    row = _first(spec, command, theory, geometry)
    if row is not None:
        raise _error(row, command)


def covers(spec: ModelSpec, command: str, theory: str = "finite", geometry: str = "auto") -> bool:
    """Whether no row of the table refuses a spec.

    Parameters
    ----------
    spec, command, theory, geometry
        As in `require_theory`.

    Returns
    -------
    bool
        False where `require_theory` raises.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.capabilities import covers
    >>> spec = ModelSpec(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> covers(spec, "critical"), covers(spec, "bands")
    (True, False)
    """
    return _first(spec, command, theory, geometry) is None


def _late(spec: ModelSpec) -> ModelSpec:
    """Spec without masks and rotary positions, whose tokens are exchangeable."""
    parts = spec.pattern and {
        part: [{name: v for name, v in one.items() if name not in ALIKE} for one in layers]
        for part, layers in spec.pattern.items()
    }
    rows = {name: v for name, v in (spec.by_layer or {}).items() if name not in ALIKE}
    return replace(spec, pattern=parts, by_layer=rows or None, **ALIKE)


def _first(spec: ModelSpec, command: str, theory: str, geometry: str) -> Row | None:
    choice("theory", theory, THEORIES)
    choice("geometry", geometry, GEOMETRIES)
    if geometry == "exchangeable":
        spec = _late(spec)
    rows = (row for row in TABLE if row.holds is not None and command in row.commands)
    return next((row for row in rows if row.holds and row.holds(spec, theory)), None)


def geometry_of(spec: ModelSpec, theory: str = "finite", geometry: str = "auto") -> str:
    """Which pairs of tokens a spec needs told apart.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.
    theory : {"finite", "limit"}
        In the limit of infinite context positions do not matter.
    geometry : {"auto", "exchangeable"}
        The exchangeable one may be asked for whatever the spec.

    Returns
    -------
    {"exchangeable", "position", "distance"}
        By position under a causal mask, by distance with rotary positions alone; without norms
        under a mask, with identity parts, and beyond the contexts that are resolved the theory of
        exchangeable tokens describes late tokens.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.capabilities import geometry_of
    >>> geometry_of(ModelSpec(depth=1, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1,
    ...                         rho0=0))
    'position'
    """
    known = _has_positions(spec, theory) and not (_is_far(spec) or spec.has_identity)
    if geometry != "auto" or not known:
        return "exchangeable"
    if is_causal(spec):
        return "position" if spec.reads_norm else "exchangeable"
    return "distance"


def refusal(structure: str, command: str, **words: str) -> TheoryError:
    """Error of a row that shows only while a state is solved.

    Parameters
    ----------
    structure, command : str
        Name of the row, and who asks; both in `TABLE`.
    **words : str
        What the sentence of the row leaves open.

    Returns
    -------
    TheoryError
        To be raised.

    Examples
    --------
    >>> from sigprop.propagation.capabilities import refusal
    >>> refusal("tokens that merge", "beta_profile", where="block 3").structure
    'tokens that merge'
    """
    rows = {row.structure: row for row in TABLE if row.holds is None and command in row.commands}
    return _error(rows[structure], command, **words)
