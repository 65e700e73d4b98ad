"""Descriptions of the measured stacks of `tests/reference`."""

from sigprop import ModelSpec


def spec_of(case):
    """Description of a case of decoders.json or finite_heads.json."""
    return ModelSpec(
        depth=case["L"],
        context=case["T"],
        width=case["d"],
        heads=case["H"],
        kv_heads=case["kv"],
        mlp_ratio=case["ff"],
        norm=case["norm"],
        activation=case["act"],
        gated=case["gated"],
        beta=case["beta"],
        sigma_v2=case["vv"],
        sigma_o2=case["vo"],
        sigma_w1_2=case["w1"],
        sigma_w2_2=case["w2"],
        causal=case["causal"],
        window=case["window"],
        rotary_base=case["rope"],
        alpha_attn=case["aA"],
        alpha_mlp=case["aM"],
        rho0=case["rho0"],
    )
