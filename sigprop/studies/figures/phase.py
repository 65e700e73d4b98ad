"""One attention layer: phase diagram over (beta, rho), entropy, approach to the limit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.notation import label
from sigprop.layers.attention.statistics import Finite, Limit, critical_beta
from sigprop.model.spec import ModelSpec
from sigprop.plotting.base import BLACK, VERMILLION, panels
from sigprop.propagation.solve import propagate
from sigprop.studies.comparison import deviation
from sigprop.studies.figures.common import Figure, Lab, attributes, findings

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["ENTROPY", "PHASE"]


def _layer(**numbers: Any) -> ModelSpec:
    """Describe one attention layer by itself: no norm, no skip branch, no MLP."""
    alone = {"depth": 1, "norm": "none", "alpha_attn": 0.0, "sigma_w2": 0.0, "mlp_ratio": 1e-6}
    return ModelSpec(**(alone | {"sigma_v2": 1.0} | numbers))  # type: ignore[arg-type]


def _measure(
    lab: Lab, contexts: list[int], seeds: dict[int, int], names: tuple[str, ...], **numbers: Any
) -> dict[str, Floats]:
    """Measured mean and standard error of attention's statistics, contexts on the first axis."""
    out: dict[str, list[Floats]] = {}
    for context in contexts:
        spec = _layer(context=context, width=lab.pick(512, 128), **numbers)
        (found,) = lab.measure([spec], seeds[context], f"one layer, T = {context}")
        for name in names:
            out.setdefault(name, []).append(found.mean(name)[-1])
            out.setdefault(f"{name}_se", []).append(found.se(name)[-1])
    return {name: np.stack(values) for name, values in out.items()}


def _seeds(lab: Lab, contexts: list[int]) -> dict[int, int]:
    """Fewer seeds at long contexts, which average over more queries."""
    return {t: lab.pick(24 if t <= 256 else 12 if t <= 1024 else 6, 4) for t in contexts}


def _theory(contexts: list[int], names: tuple[str, ...], **numbers: Any) -> dict[str, Floats]:
    """Predictions at each context, and the limit, on the last layer."""
    out = {}
    for name in names:
        finite = [getattr(propagate(_layer(context=t, **numbers)), name)[-1] for t in contexts]
        limit = getattr(propagate(_layer(context=contexts[0], **numbers), "limit"), name)[-1]
        out[f"{name}_finite"] = np.stack(finite)
        out[f"{name}_limit"] = np.broadcast_to(limit, out[f"{name}_finite"].shape)
    return out


def _phase(lab: Lab) -> xr.Dataset:
    import xarray as xr

    contexts: list[int] = lab.pick([64, 256, 1024, 4096], [64, 256])
    width = lab.pick(512, 128)
    beta, rho0 = np.linspace(0, 4, 9), np.array([0.1, 0.5, 0.9])
    names = ("y2", "rho")
    grid = {"beta": beta[:, None], "rho0": rho0}
    columns = _measure(lab, contexts, _seeds(lab, contexts), names, **grid)
    columns |= _theory(contexts, names, width=width, **grid)
    out: dict[str, Any] = {
        n: (("context", "beta", "rho0"), v, attributes(n.split("_")[0])) for n, v in columns.items()
    }
    wide, level = np.linspace(0, 5, lab.pick(201, 61)), np.linspace(0.01, 0.99, lab.pick(148, 50))
    field = {"beta": wide[:, None], "rho0": level}
    for name, values in _theory([contexts[-1]], names, width=width, **field).items():
        out[f"map_{name}"] = (
            ("map_beta", "map_rho0"),
            np.float32(values[0]),
            attributes(name.split("_")[0]),
        )
    lengths = np.unique(np.geomspace(16, 1e12, lab.pick(49, 17)).round())
    line = propagate(_layer(context=lengths, width=width, beta=2.0, rho0=0.1))
    far = propagate(_layer(context="inf", beta=2.0, rho0=0.1))
    out["approach"] = ("length", line.y2[0], attributes("y2"))
    coords = {
        "context": contexts,
        "beta": beta,
        "rho0": rho0,
        "map_beta": wide,
        "map_rho0": level,
        "length": lengths,
        "boundary": ("map_rho0", critical_beta(1.0, 1 - level)),
    }
    spec = _layer(context=contexts[-1], width=width, beta=2.0, rho0=0.1)
    about = {"spec": json.dumps(spec.to_dict()), "approach_limit": float(far.y2[0])}
    return xr.Dataset(out, coords, about | {"seeds": json.dumps(_seeds(lab, contexts))})


def _phase_picture(data: xr.Dataset) -> Picture:
    figure, rows = panels(3, 2, width=3.5, height=2.9)
    longest = int(data["context"][-1])
    for row, name in zip(rows, ("y2", "rho"), strict=True):
        _phase_map(row[0], data, f"map_{name}_limit", name, r"limit $T \to \infty$")
        _phase_map(row[1], data, f"map_{name}_finite", name, f"$T = {longest}$")
    _phase_sections(rows[0][2], data, "y2")
    _phase_approach(rows[1][2], data)
    return figure


def _phase_map(axes: Axes, data: xr.Dataset, key: str, name: str, title: str) -> None:
    x, y = np.asarray(data["map_beta"]), np.asarray(data["map_rho0"])
    values = np.asarray(data[key]).T
    mesh = axes.pcolormesh(x, y, values, cmap="cividis", vmin=0, vmax=1, rasterized=True)
    axes.plot(data["boundary"], y, "--", color="white", lw=1.6, label=r"$\beta_c(\rho)$")
    axes.set(xlabel=label("beta"), ylabel=label("rho0"), xlim=(0, x[-1]), ylim=(y[0], y[-1]))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, labelcolor="white", loc="upper left", frameon=False)
    assert axes.figure is not None
    words = {"y2": label("y2"), "rho": r"output overlap $\rho'$"}[name]
    axes.figure.colorbar(mesh, ax=axes, label=words)


def _shades(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.85, count))


def _phase_sections(axes: Axes, data: xr.Dataset, name: str) -> None:
    for shade, context in zip(_shades(data.sizes["context"]), data["context"].values, strict=True):
        one = data.sel(context=context).isel(rho0=0)
        axes.errorbar(
            one["beta"], one[name], 4 * one[f"{name}_se"], fmt="o", ms=3, lw=0.8, color=shade
        )
        axes.plot(one["beta"], one[f"{name}_finite"], color=shade, label=f"$T = {context}$")
    axes.plot(one["beta"], one[f"{name}_limit"], "--", color=BLACK, label="limit")
    axes.set(xlabel=label("beta"), ylabel=label(name))
    axes.set_title(rf"$\rho_0 = {float(one['rho0']):g}$; points measured, 4 s.e.", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _phase_approach(axes: Axes, data: xr.Dataset) -> None:
    axes.semilogx(data["length"], data["approach"], color="0.2", label="theory")
    at = data.sel(beta=2.0).isel(rho0=0)
    axes.errorbar(
        at["context"], at["y2"], 4 * at["y2_se"], fmt="o", ms=3, color=VERMILLION, label="measured"
    )
    axes.axhline(data.attrs["approach_limit"], ls="--", color=BLACK, lw=1, label="limit")
    axes.set(xlabel="context length $T$", ylabel=label("y2"), ylim=(0, None))
    axes.set_title(r"approach to the limit, $\beta = 2$, $\rho_0 = 0.1$", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _phase_findings(data: xr.Dataset) -> list[str]:
    out = []
    for context in data["context"].values:
        one = data.sel(context=context)
        for name in ("y2", "rho"):
            out += findings(one, name, f"T = {context}: ")
    out.append(
        "The overlap measured is a mean of cosines, the predicted one a ratio of means: what is "
        "left is the spread of q over tokens (E26), largest in a bare layer near freezing."
    )
    near = np.asarray(data["approach"])[-1] - data.attrs["approach_limit"]
    out.append(f"At T = 1e12, beta = 2, Y_2 is still {near:.3g} above the limit.")
    return out


PHASE = Figure(
    "phase",
    "One attention layer: participation and output overlap over (beta, rho)",
    "The limit is dark left of the dashed line, where attention would be uniform; at any real "
    "length the participation ratio rises smoothly through it. Bottom right: how slowly the limit "
    "is approached.",
    _phase,
    _phase_picture,
    _phase_findings,
)


THRESHOLDS = {
    "breakdown": (np.sqrt(0.5), "fluctuations of Z stop being Gaussian, beta_c/2"),
    "annealed": (1.0, "annealed participation e^{s^2}/T reaches one, beta_c/sqrt 2"),
    "quenched": (np.sqrt(2.0), "freezing, beta_c"),
}


def _entropy(lab: Lab) -> xr.Dataset:
    """Entropy at rho = 0; thresholds of Bovier, Kurkova & Loewe (2002), annealed, quenched."""
    import xarray as xr

    contexts: list[int] = lab.pick([64, 512, 4096], [64, 256])
    beta, width = np.linspace(0, 4, 17), lab.pick(512, 128)
    seeds = _seeds(lab, contexts)
    columns = _measure(lab, contexts, seeds, ("entropy",), beta=beta, rho0=0.0)
    logs = np.log(contexts)[:, None]
    columns = {n.replace("entropy", "entropy_ratio"): v / logs for n, v in columns.items()}
    columns |= _cooling(contexts, width, beta)
    kind = attributes("entropy_ratio")
    out: dict[str, Any] = {n: (("context", "beta"), v, kind) for n, v in columns.items()}
    fine = np.linspace(0, 4, 161)
    curves = _cooling(contexts, width, fine)
    out["curve"] = (("context", "fine"), curves["entropy_ratio_finite"])
    out["curve_limit"] = ("fine", curves["entropy_ratio_limit"][0])
    spec = _layer(context=contexts[-1], width=width, beta=1.0, rho0=0.0)
    about = {name: value for name, (value, _) in THRESHOLDS.items()}
    about |= {"spec": json.dumps(spec.to_dict()), "seeds": json.dumps(seeds)}
    return xr.Dataset(out, {"context": contexts, "beta": beta, "fine": fine}, about)


def _cooling(contexts: list[int], width: int, beta: Floats) -> dict[str, Floats]:
    """Relative entropy of tokens that do not overlap, at each context and in the limit."""
    exact = np.stack([Finite(t, width).entropy_ratio(beta) for t in contexts])
    limit = np.broadcast_to(Limit().entropy_ratio(beta), exact.shape)
    return {"entropy_ratio_finite": exact, "entropy_ratio_limit": limit}


def _entropy_picture(data: xr.Dataset) -> Picture:
    figure, ((axes,),) = panels(1, width=5.2, height=3.6)
    for shade, context in zip(_shades(data.sizes["context"]), data["context"].values, strict=True):
        one = data.sel(context=context)
        axes.plot(data["fine"], one["curve"], color=shade, label=f"exact, $T = {context}$")
        error = 4 * one["entropy_ratio_se"]
        axes.errorbar(one["beta"], one["entropy_ratio"], error, fmt="o", ms=3, color=shade)
    axes.plot(data["fine"], data["curve_limit"], "--", color=BLACK, label="limit")
    for name, (_, words) in THRESHOLDS.items():
        value = data.attrs[name]
        axes.axvline(value, color="0.5", lw=0.8, ls=":")
        text = f"{name} {value:.3g}"
        axes.text(value + 0.03, 0.03, text, rotation=90, fontsize=7, va="bottom", color="0.3")
        assert words
    axes.set(xlabel=label("beta"), ylabel=label("entropy_ratio"), ylim=(0, 1.03), xlim=(0, 4))
    axes.set_title(r"$\rho = 0$; points measured, 4 s.e.", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _entropy_findings(data: xr.Dataset) -> list[str]:
    out = [f"{name}: beta = {v:.4g} ({words})." for name, (v, words) in THRESHOLDS.items()]
    for context in data["context"].values:
        out += findings(data.sel(context=context), "entropy_ratio", f"T = {context}: ")
    at = data.sel(beta=1.5, context=data["context"][-1])
    frozen = deviation(
        np.asarray(at["entropy_ratio_finite"])[None],
        np.zeros(1),
        np.zeros(1),
    ).largest
    return [*out, f"Beyond freezing, at beta = 1.5, H/log T is {frozen:.3g}, not 0."]


ENTROPY = Figure(
    "entropy",
    "Attention entropy against beta and T",
    "Nothing happens at the freezing point at any length that people train: entropy falls "
    "smoothly and is far from zero where the limit has frozen.",
    _entropy,
    _entropy_picture,
    _entropy_findings,
)
