"""The dictionary: paper symbol, code name, meaning, unit, equation of notebooks/theory.md."""

from __future__ import annotations

from typing import NamedTuple

from sigprop.core.arguments import validated

__all__ = ["NOTATION", "Entry", "axis", "label"]


class Entry(NamedTuple):
    """One line of the dictionary.

    Attributes
    ----------
    symbol : str
        LaTeX, without dollar signs.
    meaning : str
        In words.
    unit : str
        "1" for a pure number.
    equation : str
        Where notebooks/theory.md defines it: an equation, or a section.

    Examples
    --------
    >>> from sigprop.core.notation import NOTATION
    >>> NOTATION["rho"].meaning
    'token overlap'
    """

    symbol: str
    meaning: str
    unit: str = "1"
    equation: str = ""


NOTATION: dict[str, Entry] = {
    "rho": Entry(r"\rho", "token overlap", "1", "section 1"),
    "q": Entry("q", "variance of the stream", "1", "section 1"),
    "gap": Entry(r"\Delta", "gap q - p of the token kernel", "1", "section 1"),
    "p": Entry("p", "covariance of two tokens", "1", "section 1"),
    "gap_ratio": Entry(r"1 - \rho", "overlap deficit", "1", "section 1"),
    "y2": Entry("Y_2", "participation ratio", "1", "E6"),
    "y3": Entry("Y_3", "third moment of attention weights", "1", "E6"),
    "y4": Entry("Y_4", "fourth moment of attention weights", "1", "E6"),
    "y22": Entry("Y_{22}", "second moment of the participation ratio", "1", "E7"),
    "overlap": Entry("O", "attention overlap of two queries", "1", "E9"),
    "log_z": Entry(r"E \log Z", "free energy of attention", "nats", "E8"),
    "entropy": Entry("H", "attention entropy", "nats", "E8"),
    "entropy_ratio": Entry(r"H/\log T", "relative attention entropy", "1", "E8"),
    "score_std": Entry("s", "score standard deviation", "1", "E3"),
    "reduced_beta": Entry(r"\beta\sqrt{q\,(q-p)}", "reduced inverse temperature", "1", "E3"),
    "layer": Entry("l", "block", "1", "section 4"),
    "depth": Entry("L", "number of blocks", "1", "section 4"),
    "context": Entry("T", "context length", "tokens", "section 1"),
    "width": Entry("d", "model width", "1", "section 1"),
    "heads": Entry("h", "attention heads", "1", "section 2c"),
    "kv_heads": Entry(r"h_{kv}", "key and value heads", "1", "section 2c"),
    "beta": Entry(r"\beta", "inverse temperature", "1", "E1"),
    "sigma_v2": Entry(r"\sigma_v^2", "value weight variance", "1", "section 1"),
    "sigma_o2": Entry(r"\sigma_o^2", "output projection variance", "1", "section 1"),
    "sigma_w2": Entry(r"\sigma_w^2", "MLP weight variance", "1", "section 1"),
    "sigma_w1_2": Entry(r"\sigma_{w1}^2", "first MLP weight variance", "1", "section 1"),
    "sigma_w2_2": Entry(r"\sigma_{w2}^2", "second MLP weight variance", "1", "section 1"),
    "sigma_b2": Entry(r"\sigma_b^2", "bias variance", "1", "section 1"),
    "alpha_attn": Entry(r"\alpha_{SA}", "residual strength of attention", "1", "E13"),
    "alpha_mlp": Entry(r"\alpha_{MLP}", "residual strength of the MLP", "1", "E13"),
    "norm_gain": Entry(r"\gamma", "norm gain", "1", "E14"),
    "identity": Entry(r"\gamma", "identity part of queries and keys", "1", "E2b"),
    "value_identity": Entry(r"\gamma_v", "identity part of values and output", "1", "E10b"),
    "rho0": Entry(r"\rho_0", "token overlap of the input", "1", "section 1"),
    "q0": Entry("q_0", "variance of the input stream", "1", "section 1"),
    "window": Entry("w", "latest keys that a causal token sees", "tokens", "section 6"),
    "prefix": Entry("P", "leading tokens that see each other", "tokens", "section 6"),
    "documents": Entry("n_1, n_2, ...", "lengths of packed documents", "tokens", "section 6"),
    "chunk": Entry("C", "positions of a chunk that sees itself alone", "tokens", "section 6"),
    "position": Entry("t", "position", "tokens", "section 6"),
    "distance": Entry("|t - s|", "distance of two tokens", "tokens", "E10r"),
    "entropy_by_position": Entry(
        r"H_t/\log n_t", "entropy over log of keys seen", "1", "section 6"
    ),
    "first_weight": Entry("A_{t1}", "attention on the first token", "1", "E6c"),
    "rho_late": Entry(r"\rho_{late}", "token overlap in the second half", "1", "section 6"),
    "kernel_blocks": Entry("K_{bb'}", "block means of the token kernel", "1", "E25"),
    "rotary_base": Entry("b", "base of rotary positions", "1", "E2r"),
    "rho_max": Entry(r"\rho_{max}", "largest overlap accepted", "1", "section 4"),
    "chi": Entry(r"\chi", "collapse slope of a block", "1", "E18"),
    "angle_exponent": Entry(r"\lambda_a", "angle exponent", "1", "E18"),
    "grad_q": Entry("q^g", "variance of the gradient", "1", "E23"),
    "grad_p": Entry("p^g", "covariance of two tokens' gradients", "1", "E23"),
    "grad_wq": Entry(
        r"E\|\partial L/\partial W_Q\|^2", "squared gradient of the query weights", "1", "E22b"
    ),
    "grad_wk": Entry(
        r"E\|\partial L/\partial W_K\|^2", "squared gradient of the key weights", "1", "E22b"
    ),
    "grad_wv": Entry(
        r"E\|\partial L/\partial W_V\|^2", "squared gradient of the value weights", "1", "E22b"
    ),
    "grad_wo": Entry(
        r"E\|\partial L/\partial W_O\|^2", "squared gradient of the output weights", "1", "E22b"
    ),
    "grad_wg": Entry(
        r"E\|\partial L/\partial W_G\|^2", "squared gradient of the gating weights", "1", "E22b"
    ),
    "grad_w1": Entry(
        r"E\|\partial L/\partial W_1\|^2", "squared gradient of the first MLP weights", "1", "E22b"
    ),
    "grad_w2": Entry(
        r"E\|\partial L/\partial W_2\|^2", "squared gradient of the second MLP weights", "1", "E22b"
    ),
    "lambda_g": Entry(r"\lambda_g", "gradient exponent", "1", "section 5"),
    "apjn": Entry(r"\mathcal{J}", "averaged partial Jacobian norm", "1", "section 5"),
    "score_gradient": Entry(
        r"\min_l |\partial W_Q|^2/|\partial W_V|^2", "query over value gradient", "1", "E22b"
    ),
    "response": Entry("P", "response of attention to its scores", "1", "E24"),
    "crowding": Entry(r"\kappa", "width over directions that tokens share", "1", "E26f"),
    "rho_std": Entry(r"\sigma_\rho", "spread of the overlap over networks", "1", "section 7"),
    "y2_std": Entry(r"\sigma_{Y_2}", "spread of the participation ratio", "1", "section 7"),
    "entropy_std": Entry(r"\sigma_H", "spread of the entropy", "nats", "section 7"),
    "depth_scale": Entry(r"\xi", "depth scale", "blocks", "E18"),
    "alpha_critical": Entry(r"\alpha_c(L)", "critical residual strength at depth L", "1", "E21"),
    "strength": Entry(r"\alpha/(\sigma_v\sigma_o)", "relative skip strength", "1", "section 4"),
    # letters of the symbolic theory sheet
    "freezing": Entry("m", "freezing order parameter", "1", "E4"),
    "beta_c": Entry(r"\beta_c", "critical inverse temperature", "1", "E4"),
    "yk": Entry("Y_k", "k-th moment of attention weights", "1", "E6"),
    "power": Entry("k", "power of attention weights", "1", "E6"),
    "laplace": Entry(r"\lambda", "variable of the Laplace transform", "1", "E6"),
    "excess": Entry("Y_2 - 1/T", "excess participation ratio", "1", "E11"),
    "spread": Entry("Y_2 - O", "spread of two queries' attention", "1", "E10"),
    "score_overlap": Entry("r", "correlation of two queries' scores", "1", "E9"),
    "head_width": Entry("d_h", "width of one head", "1", "E12"),
    "kappa_bar": Entry(r"\bar\kappa", "mean rotary correlation over pairs", "1", "E3r"),
    "q1": Entry("q_1", "preactivation variance", "1", "E15"),
    "gap1": Entry(r"\Delta_1", "preactivation gap", "1", "E15"),
    "theta": Entry(r"\theta", "angle between preactivations", "rad", "E16"),
    "chi_attn": Entry(r"\chi_{SA}", "collapse slope of attention", "1", "E19"),
    "chi_mlp": Entry(r"\chi_{MLP}", "collapse slope of the MLP", "1", "E19"),
    "alpha_c": Entry(r"\alpha_c", "critical residual strength", "1", "E20"),
    "q_grad": Entry("q^g", "variance of output gradients", "1", "E23"),
    "p_grad": Entry("p^g", "covariance of output gradients", "1", "E23"),
    "gamma": Entry(r"\gamma", "identity part of attention's product of weights", "1", "E2b"),
    "bias": Entry(r"\mu", "advantage of a query's own key", "nats", "E2b"),
    "own": Entry("A_1", "attention on a query's own key", "1", "E6b"),
    "token_variance": Entry(r"cv^2", "relative token variance", "1", "E26"),
}


@validated
def label(name: str) -> str:
    r"""Axis label: meaning and symbol.

    Parameters
    ----------
    name : str
        Code name; unknown names are returned as they are.

    Returns
    -------
    str
        Text with mathtext.

    Examples
    --------
    >>> from sigprop.core.notation import label
    >>> label("rho")
    'token overlap $\\rho$'
    """
    entry = NOTATION.get(name)
    return name if entry is None else f"{entry.meaning} ${entry.symbol}$"


def axis(name: str) -> str:
    r"""Axis label with its unit, unless it is a pure number.

    Parameters
    ----------
    name : str
        Code name.

    Returns
    -------
    str
        Text with mathtext.

    Examples
    --------
    >>> from sigprop.core.notation import axis
    >>> axis("position"), axis("rho")
    ('position $t$ (tokens)', 'token overlap $\\rho$')
    """
    unit = NOTATION[name].unit
    return label(name) if unit == "1" else f"{label(name)} ({unit})"
