"""Overlap against depth: encoder, norm placements with and without centring, decoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.notation import label
from sigprop.model.spec import ModelSpec
from sigprop.plotting.base import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, panels
from sigprop.propagation.every_pair import collect, exchangeable_kernel
from sigprop.propagation.every_pair import jobs as kernel_jobs
from sigprop.propagation.solve import propagate
from sigprop.simulation import Measured, Tokens
from sigprop.studies.comparison import deviation
from sigprop.studies.figures.common import THEORIES, Figure, Lab, attributes, beside, findings

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["DECODER", "DEPTH", "VARIANTS"]

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)


def _both(spec: ModelSpec, name: str) -> dict[str, Any]:
    return {theory: getattr(propagate(spec, theory), name) for theory in THEORIES}


def _draw_depth(axes: Axes, data: xr.Dataset, colour: str, text: str) -> None:
    """Measured mean with its spread over seeds, theory as a full line, limit dashed."""
    layer = np.asarray(data["layer"])
    mean, sd = np.asarray(data["rho"]), np.asarray(data["rho_sd"])
    axes.fill_between(layer, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    axes.errorbar(
        layer, mean, np.asarray(data["rho_se"]), fmt=".", ms=4, lw=0.8, color=colour, label=text
    )
    axes.plot(layer, data["rho_finite"], color=colour, lw=1.2)
    axes.plot(layer, data["rho_limit"], "--", color=colour, lw=1.0)


def _legend(axes: Axes, loc: Any = "lower right", anchor: Any = None, ncols: int = 1) -> None:
    """Explain the lines beside the colours."""
    axes.plot([], [], color="0.3", lw=1.2, label="theory, finite $T$")
    axes.plot([], [], "--", color="0.3", lw=1.0, label=r"limit $T \to \infty$")
    axes.fill_between([], [], color="0.3", alpha=0.2, linewidth=0, label="spread over seeds")
    axes.legend(fontsize=7, frameon=False, loc=loc, bbox_to_anchor=anchor, ncols=ncols)


# encoder, two temperatures


def _context(lab: Lab) -> int:
    return lab.pick(512, 256)


def _encoder(lab: Lab) -> xr.Dataset:
    import xarray as xr

    beta, context = np.array([0.5, 3.0]), _context(lab)
    width = lab.pick(720, 240)
    spec = ModelSpec(
        depth=50,
        context=context,
        width=width,
        beta=beta,
        sigma_v2=0.2,
        sigma_w2=0.2,
        sigma_b2=4e-4,
        rho0=0.025,
    )
    ids = lab.windows(context)
    source = None if ids is None else Tokens(ids, "learned")
    (found,) = lab.measure([spec], lab.pick(32, 6), "depth", source)
    start = spec.replace(rho0=float(found.mean("rho")[0].mean()))
    words = "Gaussian tokens of overlap 0.025 (no text was given)"
    if ids is not None:
        words = f"tokens of {lab.text.name if lab.text else ''}, random embeddings and positions"
    cool = Measured({"entropy_ratio": found.samples["entropy"] / np.log(context)}, found.seeds)
    heat = {k: v / np.log(context) for k, v in _both(start, "entropy").items()}
    return xr.Dataset(
        beside("rho", ("layer", "beta"), found, _both(start, "rho"))
        | beside("entropy_ratio", ("block", "beta"), cool, heat),
        {"layer": found.layer, "beta": ("beta", beta, attributes("beta"))},
        {"spec": json.dumps(start.to_dict()), "seeds": list(found.seeds), "input": words},
    )


def _encoder_picture(data: xr.Dataset) -> Picture:
    figure, ((left, right),) = panels(2, width=3.8)
    block = np.asarray(data["layer"])[1:]
    for i, beta in enumerate(np.asarray(data["beta"])):
        one, colour = data.isel(beta=i), COLOURS[i]
        _draw_depth(left, one, colour, rf"measured, $\beta = {beta:g}$")
        mean, se = one["entropy_ratio"], one["entropy_ratio_se"]
        right.errorbar(block, mean, se, fmt=".", ms=4, lw=0.8, color=colour)
        right.plot(block, one["entropy_ratio_finite"], color=colour, lw=1.2)
        right.plot(block, one["entropy_ratio_limit"], "--", color=colour, lw=1.0)
    left.set(xlabel=label("layer"), ylabel=label("rho"), ylim=(-0.02, 1.05))
    right.set(xlabel=label("layer"), ylabel=label("entropy_ratio"), ylim=(-0.02, 1.05))
    _legend(left)
    figure.suptitle(f"Encoder; {data.attrs['input']}", fontsize=9)
    return figure


def _encoder_findings(data: xr.Dataset) -> list[str]:
    out = [f"Input: {data.attrs['input']}; overlap {float(data['rho'][0, 0]):.3g}."]
    for i, beta in enumerate(np.asarray(data["beta"])):
        one = data.isel(beta=i)
        for name in ("rho", "entropy_ratio"):
            out += findings(one, name, f"beta = {beta:g}: ")
    return out


DEPTH = Figure(
    "depth",
    "Overlap against depth in an encoder",
    "Tokens merge with depth, later at higher beta. Right: the limit (dashed) has attention frozen "
    "on few keys over most of the depth at beta = 3; at finite T it never is.",
    _encoder,
    _encoder_picture,
    _encoder_findings,
    _context,
)


# norm placements, softmax and centred

KINDS = {
    "post-LN": ("post", "softmax"),
    "pre-LN": ("pre", "softmax"),
    "centred post-LN": ("post", "centred"),
    "centred pre-LN": ("pre", "centred"),
}


def _variants(lab: Lab) -> xr.Dataset:
    import xarray as xr

    specs = [
        ModelSpec(
            depth=100,
            context=256,
            width=lab.pick(512, 192),
            norm=norm,
            attention=attention,
            beta=0.1,
            sigma_v2=1.0,
            sigma_w2=0.2,
            rho0=0.2,
        )
        for norm, attention in KINDS.values()
    ]
    found = lab.measure(specs, lab.pick(12, 3), "variants")
    parts = []
    for spec, one in zip(specs, found, strict=True):
        start = spec.replace(rho0=float(one.mean("rho")[0]))
        parts.append(xr.Dataset(beside("rho", ("layer",), one, _both(start, "rho"))))
    out = xr.concat(parts, xr.Variable("kind", list(KINDS)), join="exact")
    out = out.assign_coords(layer=found[0].layer)
    words = json.dumps([spec.to_dict() for spec in specs])
    return out.assign_attrs({"spec": words, "seeds": list(found[0].seeds)})


def _variants_picture(data: xr.Dataset) -> Picture:
    figure, ((axes,),) = panels(1, width=5.2, height=3.6)
    for i, kind in enumerate(data["kind"].values):
        _draw_depth(axes, data.isel(kind=i), COLOURS[i], f"{kind}, measured")
    axes.set(xlabel=label("layer"), ylabel=label("rho"), ylim=(-0.02, 1.05), xlim=(0, 100))
    _legend(axes, loc="upper right", anchor=(1.0, 0.84), ncols=2)
    figure.suptitle(r"Norm placement and centring, $\beta = 0.1$, $L = 100$", fontsize=9)
    return figure


def _variants_findings(data: xr.Dataset) -> list[str]:
    out = []
    for i, kind in enumerate(data["kind"].values):
        one = data.isel(kind=i)
        last = float(one["rho"][-1])
        out += [f"{kind}: overlap {last:.4g} after block 100.", *findings(one, "rho", f"{kind}: ")]
    return out


VARIANTS = Figure(
    "variants",
    "Norm placement and centred attention",
    "Post-LN merges tokens within tens of blocks, pre-LN as a power law; centring removes the "
    "uniform part of attention, and what is left is the slow collapse of the MLP.",
    _variants,
    _variants_picture,
    _variants_findings,
)


# decoder, position by position

GROUP, LAST = 10, 5  # tokens in a block of positions; blocks that make the last 50 tokens


def _decoder(lab: Lab) -> xr.Dataset:
    """Theory by position and kernel solver beside random networks; exchangeable theory."""
    import xarray as xr

    context = lab.pick(400, 200)
    beta, blocks = (0.5, 2.0), context // GROUP
    specs = [
        ModelSpec(
            depth=20,
            context=context,
            width=lab.pick(512, 256),
            causal=True,
            beta=b,
            sigma_v2=0.2,
            sigma_w2=0.2,
            sigma_b2=4e-4,
            rho0=0.1,
        )
        for b in beta
    ]
    measured = lab.measure(specs, lab.pick(24, 4), "decoder: networks", blocks=blocks)
    todo = [
        kernel_jobs(s, exchangeable_kernel(s), draws=lab.pick(24, 4), blocks=blocks) for s in specs
    ]
    found = iter(lab.gather([job for part in todo for job in part], "decoder: kernels"))
    parts = []
    for spec, one, part in zip(specs, measured, todo, strict=True):
        solved = collect([next(found) for _ in part])
        start = spec.replace(rho0=float(one.mean("rho")[0]))
        parts.append(_decoder_part(one.samples["block_means"], solved.samples, start))
    out = xr.concat(parts, xr.Variable("beta", list(beta), attributes("beta")), join="exact")
    out = out.assign_coords(layer=measured[0].layer)
    words = json.dumps([spec.to_dict() for spec in specs])
    return out.assign_attrs(
        {"spec": words, "seeds": list(measured[0].seeds), "group": GROUP, "last": GROUP * LAST}
    )


def _decoder_part(networks: Any, solver: Any, start: ModelSpec) -> xr.Dataset:
    import xarray as xr

    kernel = ("layer", "row", "column")
    out: dict[str, Any] = {}
    for end, samples in (("", networks), ("_finite", solver)):
        root = np.sqrt(len(samples))
        last, samples = _last(samples), _apart(samples)
        out |= {
            f"kernel{end}": (kernel, np.float32(samples.mean(axis=0))),
            f"kernel{end}_se": (kernel, np.float32(samples.std(axis=0, ddof=1) / root)),
            f"rho{end}": ("layer", last.mean(axis=0), attributes("rho")),
            f"rho{end}_se": ("layer", last.std(axis=0, ddof=1) / root, attributes("rho")),
        }
    blocks = np.asarray(propagate(start, blocks=networks.shape[-1]).kernel_blocks)
    out["kernel_theory"] = (kernel, np.float32(_apart(blocks)))
    out["rho_theory"] = ("layer", _last(blocks), attributes("rho"))
    late = propagate(start, geometry="exchangeable")
    out["rho_exchangeable"] = ("layer", late.rho, attributes("rho"))
    return xr.Dataset(out)


def _apart(samples: Any) -> Any:
    """Block means of pairs of different tokens: without the ones that diagonal blocks hold."""
    own = np.eye(samples.shape[-1], dtype=bool)
    return np.where(own, (samples * GROUP - 1) / (GROUP - 1), samples)


def _last(samples: Any) -> Any:
    """Mean overlap of two of the last tokens, from block means that include the diagonal."""
    count = GROUP * LAST
    mean = samples[..., -LAST:, -LAST:].mean(axis=(-2, -1))
    return (mean * count - 1) / (count - 1)


def _decoder_picture(data: xr.Dataset) -> Picture:
    figure, ((left, middle, right),) = panels(3, width=3.7, height=3.1)
    layer = np.asarray(data["layer"])
    for i, beta in enumerate(np.asarray(data["beta"])):
        one, colour = data.isel(beta=i), COLOURS[i]
        text = rf"measured, $\beta = {beta:g}$"
        left.errorbar(layer, one["rho"], one["rho_se"], fmt=".", ms=4, color=colour, label=text)
        left.plot(layer, one["rho_theory"], color=colour, lw=1.2)
        left.plot(layer, one["rho_finite"], "--", color=colour, lw=1.2)
        left.plot(layer, one["rho_exchangeable"], ":", color=colour, lw=1.2)
    left.plot([], [], color="0.3", label="theory by position (E25)")
    left.plot([], [], "--", color="0.3", label="drawn kernel (E25b)")
    left.plot([], [], ":", color="0.3", label="exchangeable theory")
    left.legend(fontsize=7, frameon=False)
    left.set(xlabel=label("layer"), ylabel=label("rho"), title="last 50 tokens", ylim=(0, 1.05))
    _decoder_kernel(middle, data)
    _decoder_profile(right, data)
    for axes in (left, middle, right):
        axes.title.set_fontsize(9)
    return figure


def _decoder_kernel(axes: Axes, data: xr.Dataset) -> None:
    """Measured kernel above the diagonal, theory below it."""
    one = data.isel(beta=-1, layer=16)
    kernel = np.tril(one["kernel_theory"]) + np.triu(one["kernel"], 1)
    size = kernel.shape[0] * GROUP
    image = axes.imshow(kernel, cmap="cividis", extent=(0, size, size, 0))
    axes.plot([0, size], [0, size], color="white", lw=1)
    style: dict[str, Any] = {"color": "white", "fontsize": 8, "transform": axes.transAxes}
    axes.text(0.95, 0.9, "measured", ha="right", **style)
    axes.text(0.05, 0.06, "theory", **style)
    axes.set(xlabel="position $t'$", ylabel="position $t$")
    axes.set_title(rf"block 16, $\beta = {float(one['beta']):g}$")
    axes.spines[:].set_visible(False)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label=label("rho"))


def _decoder_profile(axes: Axes, data: xr.Dataset) -> None:
    """Overlap with the next block of positions, along the sequence."""
    one = data.isel(beta=-1)
    count = one.sizes["row"] - 1
    at, index = GROUP * np.arange(1, count + 1), np.arange(count)
    for colour, depth in zip((BLUE, GREEN, ORANGE, BLACK), (1, 4, 8, 16), strict=True):
        picked = one.isel(layer=depth)
        mean, se, solved = (
            np.asarray(picked[name])[index, index + 1]
            for name in ("kernel", "kernel_se", "kernel_theory")
        )
        axes.errorbar(at, mean, se, fmt=".", ms=3, lw=0.7, color=colour, label=f"block {depth}")
        axes.plot(at, solved, color=colour, lw=1.2)
    axes.set(xlabel="position $t$", ylabel="overlap of neighbouring tokens", ylim=(0, 1.05))
    axes.set_title(rf"all positions, $\beta = {float(one['beta']):g}$")
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1.0, 1.02))


def _decoder_findings(data: xr.Dataset) -> list[str]:
    out = []
    for i, beta in enumerate(np.asarray(data["beta"])):
        one = data.isel(beta=i)
        for name, words in (("kernel", "kernel, all blocks of positions"), ("rho", "last 50")):
            both = np.hypot(one[f"{name}_se"], one[f"{name}_finite_se"])
            d = deviation(np.asarray(one[f"{name}_finite"]), np.asarray(one[name]), both)
            out.append(
                f"beta = {beta:g}, {words}: infinite width off by at most {d.largest:.3g} "
                f"({d.z:.1f} combined standard errors), on average {d.mean:.3g}."
            )
        measured = [np.asarray(one[name]) for name in ("rho", "rho_se")]
        for name, words in (("theory", "theory by position"), ("exchangeable", "exchangeable")):
            late = deviation(np.asarray(one[f"rho_{name}"]), measured[0], measured[1])
            out.append(f"beta = {beta:g}, last 50: {words} off by {late.largest:.3g}.")
        kernels = [np.asarray(one[f"kernel{end}"]) for end in ("_theory", "", "_se")]
        whole = deviation(kernels[0], kernels[1], kernels[2])
        out.append(
            f"beta = {beta:g}, kernel, all blocks of positions: theory off by at most "
            f"{whole.largest:.3g}, on average {whole.mean:.3g}."
        )
    return out


DECODER = Figure(
    "decoder",
    "Causal attention, position by position",
    "Early tokens see few keys and merge first; the last 50 tokens follow a little later than the "
    "exchangeable theory says. Theory by position (lines) has no width and nothing fitted.",
    _decoder,
    _decoder_picture,
    _decoder_findings,
)
