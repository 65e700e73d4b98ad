"""What no theory covers: one table of refusals, structure by command, that every command asks.

A row names a structure of the spec, the commands that refuse it, and what is missing. Most rows
hold or do not hold of a spec before anything is computed (`require_theory`); the others show only
while its state is solved (`refusal`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sigprop.core.errors import AssumptionError
from sigprop.model.spec import Transformer

__all__ = [
    "MAX_POSITIONS",
    "TABLE",
    "Row",
    "TheoryError",
    "covers",
    "geometry_of",
    "has_positions",
    "is_causal",
    "is_rotary",
    "refusal",
    "require_theory",
]

MAX_POSITIONS = 2**17  # tokens whose positions are told apart
MAX_SAMPLED = 2048  # tokens up to which T^3 operations a layer and draw are affordable
SMALLEST_GAIN = 1e-150  # whose square, the variance behind a norm, keeps its digits

FORWARD = ("propagate", "sweep", "critical", "diagram")
RATES = ("exponents", "fixed_points", "asymptotic_alpha", "gradient_exponent")
HEAT = ("beta_profile", "entropy_boundary")
DESIGN = ("judge", "recommend", "prescribe", "grow", "schemes", "folklore")
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
    >>> raise TheoryError("causal = true", "exponents", "no positions")
    Traceback (most recent call last):
        ...
    sigprop.propagation.capabilities.TheoryError: causal = true in exponents: no positions
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
    holds: Callable[[Transformer, bool], bool] | None


def _is_infinite(spec: Transformer, limit: bool) -> bool:
    return limit or bool(np.any(np.isinf(spec.context)))


def _is_mixed(spec: Transformer, limit: bool) -> bool:
    infinite = np.isinf(spec.context)
    return not limit and bool(np.any(infinite) and not np.all(infinite))


def is_causal(spec: Transformer, limit: bool = False) -> bool:
    """Whether any layer has a causal mask."""
    return any(layer.causal for layer in set(spec.layers))


def is_rotary(spec: Transformer, limit: bool = False) -> bool:
    """Whether any layer has rotary positions."""
    return any(layer.rotary_base is not None for layer in set(spec.layers))


def has_positions(spec: Transformer) -> bool:
    """Whether tokens at different positions differ in any layer."""
    return is_causal(spec) or is_rotary(spec)


def _has_positions(spec: Transformer, limit: bool) -> bool:
    """Whether tokens at different positions differ, at finite context."""
    finite = not limit and not np.all(np.isinf(spec.context))
    return finite and has_positions(spec)


def _is_long(spec: Transformer, limit: bool) -> bool:
    context = np.asarray(spec.context)
    far = np.any((context > MAX_POSITIONS) & np.isfinite(context))
    return _has_positions(spec, limit) and bool(far)


TABLE = (
    Row("context mixes finite and infinite values", (*FORWARD, *RATES, *HEAT, "attention"),
        "they have different theories; run them apart", _is_mixed),
    Row("norm_gain below 1e-150", (*FORWARD, *RATES, *HEAT, "bands", "gradients"),
        "the variance behind the norm, its square, is no floating-point number",
        lambda s, limit: s.norm != "none" and bool(np.any(np.less(s.norm_gain, SMALLEST_GAIN)))),
    Row("causal = true", (*RATES, *HEAT),
        f"positions are not resolved there; {LATE}", is_causal),
    Row("rotary_base", (*RATES, *HEAT),
        f"positions are not resolved there; {LATE}", is_rotary),
    Row("norm = 'none' with causal = True", (*FORWARD, "bands"),
        f"tokens differ in size, and scores with them; {LATE}, or ask for the limit",
        lambda s, limit: s.norm == "none" and is_causal(s) and _has_positions(s, limit)),
    Row(f"context above {MAX_POSITIONS} with causal = true or rotary_base", (*FORWARD, "bands"),
        f"positions are resolved up to {MAX_POSITIONS} tokens; {LATE}, or ask for the limit",
        _is_long),
    Row("identity or value_identity with causal = true or rotary_base",
        ("sweep", "critical", "diagram", "bands", "gradients"),
        f"identity parts have no theory by position; {LATE}",
        lambda s, limit: s.has_identity and _has_positions(s, limit)),
    Row("identity with an infinite context", (*FORWARD, *RATES, *HEAT, "attention"),
        "the own key's advantage grows as log T; identity needs a finite context",
        lambda s, limit: bool(np.any(s.identity)) and _is_infinite(s, limit)),
    Row("identity", (*HEAT, "diagram"),
        "the entropy depends on the overlap too, not on beta sqrt(q gap) alone",
        lambda s, limit: bool(np.any(s.identity))),
    Row("identity or value_identity", ("bands", "gradients", "gradient_exponent", "recommend"),
        "identity parts have no theory of gradients nor of their spread over networks",
        lambda s, limit: s.has_identity),
    Row("value_identity with norm = 'pre'", ("exponents",),
        "q grows with its own square root too, and its fixed point is not solved",
        lambda s, limit: s.norm == "pre" and bool(np.any(s.value_identity))),
    Row("norm = 'none'", ("exponents", "sampled_gradients"),
        "without norms q drifts, and tokens differ in size; set norm = 'post' or 'pre'",
        lambda s, limit: s.norm == "none"),
    Row("norm other than 'post'", ("fixed_points",),
        "the overlap has fixed points where q is fixed; set norm = 'post'",
        lambda s, limit: s.norm != "post"),
    Row("arrays", ("fixed_points", "bands", "sampled_gradients", "blocks", *DESIGN),
        "a single spec is needed", lambda s, limit: s.shape != ()),
    Row("infinite context",
        ("bands", "gradients", "blocks", "recommend", "prescribe", "grow", "schemes", "folklore"),
        "fluctuations, gradients of scores, weights and positions depend on T; a finite context is "
        "needed",
        _is_infinite),
    Row(f"context above {MAX_SAMPLED} with causal = true or rotary_base", ("gradients",),
        f"gradients by position are sampled, for at most {MAX_SAMPLED} tokens",
        lambda s, limit: s.shape == () and _has_positions(s, limit)
        and bool(s.context > MAX_SAMPLED)),
    Row("rotary_base with width = null", ("sampled_gradients",),
        "rotary positions depend on the width of a head; give a width",
        lambda s, limit: is_rotary(s) and s.width is None),
    Row("width that heads do not divide", ("sampled_gradients",),
        "heads of one width are sampled", lambda s, limit: bool(s.width and s.width % s.heads)),
    Row("width = null", ("bands",),
        "networks differ by terms in 1/width; give a width", lambda s, limit: s.width is None),
    Row("pattern or by_layer", (*RATES, *HEAT, "bands", *DESIGN),
        "layers that differ have no common fixed point, spread or design; ask propagate, critical "
        "or diagram, or describe a uniform stack",
        lambda s, limit: not s.is_uniform),
    Row("no causal mask that is resolved", ("causal",),
        f"a single causal spec with norms is needed, of at most {MAX_POSITIONS} tokens", None),
    Row("no rotary positions that are resolved", ("by_distance",),
        f"a single bidirectional spec with a rotary base is needed, of at most {MAX_POSITIONS} "
        "tokens", None),
    Row("a state that vanishes or overflows",
        ("propagate", "beta_profile", "exponents", "bands", "gradients"),
        "nothing passes {where}: all branches are zero, a scale overflows, scores exceed s = 40, "
        "or tanh or silu meets a variance above 100", None),
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


def require_theory(spec: Transformer, command: str, limit: bool = False) -> None:
    """Refuse a spec that has a structure which no theory of a command covers.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.
    command : str
        Who asks, one of those in `TABLE`.
    limit : bool
        Whether the limit of infinite context is asked for.

    Raises
    ------
    TheoryError
        The first row of `TABLE` that holds.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagation.capabilities import require_theory
    >>> spec = Transformer(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> require_theory(spec, "critical")
    >>> require_theory(spec, "exponents")
    Traceback (most recent call last):
        ...
    sigprop.propagation.capabilities.TheoryError: causal = true in exponents: ...
    """
    row = _first(spec, command, limit)
    if row is not None:
        raise _error(row, command)


def covers(spec: Transformer, command: str, limit: bool = False) -> bool:
    """Whether no row of the table refuses a spec.

    Parameters
    ----------
    spec, command, limit
        As in `require_theory`.

    Returns
    -------
    bool
        False where `require_theory` raises.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagation.capabilities import covers
    >>> spec = Transformer(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> covers(spec, "critical"), covers(spec, "exponents")
    (True, False)
    """
    return _first(spec, command, limit) is None


def _first(spec: Transformer, command: str, limit: bool) -> Row | None:
    rows = (row for row in TABLE if row.holds is not None and command in row.commands)
    return next((row for row in rows if row.holds and row.holds(spec, limit)), None)


def geometry_of(spec: Transformer, limit: bool = False) -> str:
    """Which pairs of tokens a spec needs told apart.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.
    limit : bool
        Whether the limit of infinite context is asked for, where positions do not matter.

    Returns
    -------
    {"exchangeable", "position", "distance"}
        By position under a causal mask, by distance with rotary positions alone; without norms
        under a mask, with identity parts, and beyond the contexts that are resolved the theory of
        exchangeable tokens describes late tokens.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagation.capabilities import geometry_of
    >>> geometry_of(Transformer(depth=1, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1,
    ...                         rho0=0))
    'position'
    """
    far = bool(np.any(np.asarray(spec.context) > MAX_POSITIONS))
    if not _has_positions(spec, limit) or far or spec.has_identity:
        return "exchangeable"
    if is_causal(spec):
        return "exchangeable" if spec.norm == "none" else "position"
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
