"""Packed documents and chunks: two documents stand for all, or every segment has blocks."""

import itertools

import numpy as np
import pytest

from sigprop import (
    AssumptionError,
    DomainError,
    ModelSpec,
    critical,
    diagram,
    gradients,
    influence,
    propagate,
    sweep,
)
from sigprop.layers.attention.packed_documents import PackedDocuments
from sigprop.layers.attention.position_grid import Layout
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.causal import causal
from sigprop.propagation.every_pair import exchangeable_kernel
from sigprop.propagation.every_pair import solve as solve_every_pair
from sigprop.propagation.run import solve
from sigprop.propagation.stack import attention_of, build_stack
from sigprop.propagation.trajectories import from_positions
from sigprop.simulation import simulate
from sigprop.simulation.architecture import unseen

DOCUMENTS = (13, 5, 1, 13, 8)
WHOLE = ModelSpec(
    depth=4, context=40, width=64, heads=4, causal=True, beta=1.5, sigma_v2=1, sigma_w2=1, rho0=0.1
)
PACKED = WHOLE.replace(documents=DOCUMENTS)
COLUMNS = ("q", "rho", "y2", "overlap", "entropy", "entropy_ratio", "score_std", "reduced_beta")
STACKS = {
    "plain": {},
    "rotary": {"rotary_base": 1e3},
    "pre-norm window": {"norm": "pre", "window": 4, "width": None},
    "centred": {"attention": "centred", "gated": True, "sigma_b2": 0.1},
}


def solved(spec, resolution, kept):
    """Trajectory of a stack in which some documents stand for all, or each for itself."""
    stack = build_stack(spec, "position", resolution=resolution, kept=kept)
    return from_positions(spec, solve(stack, stack.initial(spec)), stack.place)


def same(one, other, rtol=1e-12, atol=1e-13):
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol, atol)


@pytest.mark.parametrize("changes", [{"documents": [40]}, {"chunk": 40}, {"chunk": 10**12}])
def test_one_document_or_chunk_is_the_plain_mask(changes):
    same(propagate(WHOLE.replace(**changes)), propagate(WHOLE))
    assert abs(propagate(PACKED).rho[-1] - propagate(WHOLE).rho[-1]) > 0.1  # negative control


@pytest.mark.parametrize("rotary_base", [None, 1e3])
@pytest.mark.parametrize("changes", [{"chunk": 1}, {"documents": [1] * 40}])
def test_tokens_that_see_themselves_alone(changes, rotary_base):
    """They are those of a window of one key."""
    spec = WHOLE.replace(rotary_base=rotary_base)
    found, alone = spec.replace(**changes), spec.replace(window=1)
    same(propagate(found), propagate(alone))
    np.testing.assert_allclose(gradients(found).q, gradients(alone).q, 1e-12)


def test_one_document_that_stands_for_itself_has_its_own_numbers():
    plain = Layout(np.array([0, 1, 2, 5, 9]))
    held = Layout(plain.edges, documents=PackedDocuments((9,)))
    np.testing.assert_array_equal(held.stands_for, plain.stands_for)
    np.testing.assert_array_equal(held.token_pairs, plain.token_pairs)


@pytest.mark.parametrize("lengths", [DOCUMENTS, (1, 1), (2, 7), (7, 2), (4, 4, 4), (1, 6, 1, 1)])
@pytest.mark.parametrize("first", [0, 3])
def test_numbers_and_pairs_are_those_that_one_counts(lengths, first):
    packed = PackedDocuments(lengths)
    tokens = [(d, p) for d, n in enumerate(lengths) for p in range(n)][first:]
    longest, second = packed.longest
    own, between = np.zeros((2, longest, longest))
    for (d, p), (e, r) in itertools.permutations(tokens, 2):
        (own if d == e else between)[p, r] += 1
    found = packed.pairs(np.arange(longest + 1), first)
    assert found.sum() == len(tokens) * (len(tokens) - 1)
    np.testing.assert_array_equal(found[:longest, :longest], own)
    between[:second] /= 2  # of two positions of the second each may be in either
    np.testing.assert_array_equal(found[:longest, longest:], between[:, :second])
    np.testing.assert_array_equal(found, found.T)
    if not first:
        number = [sum(p == q for _, q in tokens) for p in range(longest)]
        np.testing.assert_array_equal(packed.numbers(np.arange(longest + 1)), number)


@pytest.mark.parametrize("length", [40, 300])
@pytest.mark.parametrize("copies", [2, 3])
def test_a_document_is_a_context_of_its_own(length, copies):
    """Up to the scale of its scores, which is that of the whole context."""
    whole = WHOLE.replace(context=length, width=None)
    packed = whole.replace(context=copies * length, documents=[length] * copies)
    scale = np.sqrt(np.log(packed.context) / np.log(length))
    found, alone = propagate(packed).positions, propagate(whole.replace(beta=1.5 * scale)).positions
    for name in ("gap_ratio", "rho", "y2", "entropy", "first_weight", "score_std", "overlap"):
        near = 1e-10 if name == "entropy" else 1e-12  # rounding moves the ends of its integral
        np.testing.assert_allclose(
            getattr(found, name), getattr(alone, name), near, 1e-14, err_msg=name
        )
    np.testing.assert_array_equal(found.size, copies * alone.size)
    cold = propagate(whole).positions
    assert np.abs(cold.gap_ratio - found.gap_ratio).max() > 0.003  # negative control


@pytest.mark.parametrize("name", STACKS)
def test_two_documents_stand_for_all(name):
    """At every position of every document, solved without the symmetry."""
    spec = PACKED.replace(**STACKS[name])
    found, exact = propagate(spec), solved(spec, 40, 0)
    same(found, exact)
    late = exact.positions.rho_late
    np.testing.assert_allclose(found.positions.rho_late, late, 1e-12)
    other = solved(spec.replace(documents=DOCUMENTS[::-1]), 40, 0)
    same(found, other)  # whatever their order
    assert np.abs(other.positions.rho_late - late).max() > 1e-3
    assert len(found.positions.size) == 13
    assert found.positions.size.sum() == 40


def test_blocks_of_many_documents_are_as_good_as_those_of_a_context():
    lengths = np.diff([0, *np.sort(np.random.default_rng(0).choice(999, 7, False) + 1), 1000])
    spec = WHOLE.replace(context=1000, documents=lengths, width=None)
    found, exact = propagate(spec), solved(spec, 1000, 2)
    assert np.abs(found.rho - exact.rho).max() < 3e-4
    assert np.abs(found.y2 - exact.y2).max() < 2e-3
    assert np.abs(found.entropy - exact.entropy).max() < 3e-3


def seen(spec):
    ids = np.arange(int(spec.context)) // (spec.chunk or spec.context)
    if spec.documents is not None:
        ids = np.repeat(np.arange(len(spec.documents)), spec.documents)
    return np.equal.outer(ids, ids) & np.tri(len(ids), dtype=bool)


SEGMENTED = {
    "documents": PACKED,
    "chunk": WHOLE.replace(chunk=12),
    "pattern": WHOLE.replace(pattern=[{"chunk": 12}, {"chunk": 7}, {}]),
    "by layer": WHOLE.replace(by_layer={"chunk": [12, 40, 5, 39]}),
}


@pytest.mark.parametrize("name", SEGMENTED)
def test_uniform_attention_is_a_matrix_product(name):
    """At beta = 0 the theory is exact, and so are ranges of positions and the second half."""
    spec = SEGMENTED[name].replace(beta=0, sigma_w2=0, sigma_b2=0)
    kernel = exchangeable_kernel(spec)
    for layer in spec.layers:
        a = seen(layer) / seen(layer).sum(axis=1, keepdims=True)
        kernel = kernel + a @ kernel @ a.T
        root = np.sqrt(np.diagonal(kernel))
        kernel /= np.outer(root, root)
    t, found = int(spec.context), propagate(spec)
    assert np.isclose(found.rho[-1], (kernel.sum() - t) / (t * (t - 1)), atol=1e-12)
    half = (kernel[t // 2 :, t // 2 :].sum() - t / 2) / (t / 2 * (t / 2 - 1))
    assert np.isclose(found.positions.rho_late[-1], half, atol=1e-12)
    blocks = propagate(spec, blocks=4).kernel_blocks[-1]
    np.testing.assert_allclose(blocks, kernel.reshape(4, 10, 4, 10).mean(axis=(1, 3)), atol=1e-12)
    given = causal(spec, exchangeable_kernel(spec)).rho_late
    np.testing.assert_allclose(given, found.positions.rho_late, atol=1e-12)
    plain = propagate(spec.replace(documents=None, chunk=None, pattern=None, by_layer=None))
    assert abs(plain.rho[-1] - found.rho[-1]) > 0.03  # negative control


@pytest.mark.parametrize("name", SEGMENTED)
def test_masks_are_those_that_a_simulation_draws(name):
    for layer in SEGMENTED[name].layers:
        np.testing.assert_array_equal(attention_of(layer).seen(40), seen(layer))
        np.testing.assert_array_equal(~unseen(layer), seen(layer))


DRAWN = {
    "documents": ({"documents": [20, 9, 14, 21]}, 0.006),
    "chunk": ({"chunk": 16}, 0.006),
    "pattern": ({"pattern": [{"chunk": 16}, {"chunk": 16}, {}]}, 0.006),
}


@pytest.mark.parametrize("name", DRAWN)
def test_against_kernels_drawn_at_infinite_width(name):
    changes, allowed = DRAWN[name]
    whole = WHOLE.replace(depth=9, context=64, heads=32, width=None, beta=2, sigma_w2=0.3)
    spec = whole.replace(**changes)
    measured = solve_every_pair(spec, exchangeable_kernel(spec), draws=6, blocks=1)
    for name in ("rho", "y2", "entropy"):
        room = (1 if name == "rho" else 3) * allowed + 3 * measured.se(name)
        assert (np.abs(getattr(propagate(spec), name) - measured.mean(name)) <= room).all(), name
        assert (np.abs(getattr(propagate(whole), name) - measured.mean(name)) > room).any(), name


@pytest.mark.parametrize("changes", [{"documents": [20, 9, 14, 21]}, {"chunk": 16}])
def test_overlap_of_random_networks(changes):
    """In standard errors; what tokens would overlap by under the plain mask is far off."""
    whole = WHOLE.replace(depth=3, context=64, width=256, heads=8)
    spec = whole.replace(**changes)
    measured = simulate(spec, seeds=8)
    mean, error = measured.mean("rho")[-1], measured.se("rho")[-1]
    assert abs(propagate(spec).rho[-1] - mean) < 3 * error
    assert abs(propagate(whole).rho[-1] - mean) > 5 * error


@pytest.mark.parametrize("rotary_base", [None, 1e3])
def test_blocks_behind_chunk_starts(rotary_base):
    """Layers that differ: every position of a context by itself."""
    spec = WHOLE.replace(
        context=240, depth=6, width=None, pattern=[{"chunk": 60, "rotary_base": rotary_base}, {}]
    )
    found, exact = propagate(spec), solved(spec, 240, 0)
    assert np.abs(found.rho - exact.rho).max() < 3e-4
    assert np.abs(found.y2 - exact.y2).max() < 2e-3
    assert np.abs(found.entropy - exact.entropy).max() < 4e-3
    coarse = solved(spec.replace(pattern=None), 240, 0)
    assert np.abs(coarse.rho - exact.rho).max() > 0.01  # negative control


@pytest.mark.parametrize("changes", [{"documents": [20, 9, 14, 21]}, DRAWN["pattern"][0]])
def test_the_shape_of_a_spec_changes_no_theory(changes):
    spec = WHOLE.replace(context=64, **changes)
    wide = spec.replace(beta=[1.5, 0.5], alpha_attn=1.3)
    single = spec.replace(alpha_attn=1.3)
    found = propagate(wide)
    np.testing.assert_allclose(found.rho[:, 0], propagate(single).rho, 1e-12)
    final = sweep(wide).state
    np.testing.assert_allclose(1 - final.gap / final.q, found.rho[-1], atol=0.005)
    drawn = diagram(spec, beta=[0.5, 1.5], alpha_attn=[1.0, 1.3])
    assert abs(float(drawn.rho[1, 1]) - found.rho[-1, 0]) < 0.005
    strength = critical(spec, 0.4).alpha_attn
    assert abs(propagate(spec.replace(alpha_attn=strength)).rho[-1] - 0.4) < 0.005


@pytest.mark.parametrize("name", STACKS)
def test_gradients_of_the_longest_document_stand_for_all(name):
    """A kernel given as a matrix is pulled back through every document."""
    spec = PACKED.replace(**STACKS[name])
    found, exact = gradients(spec), gradients(spec, start=np.eye(40))
    for column in ("q", "p", "wq", "wk", "wv", "wo", "w1", "w2"):
        np.testing.assert_allclose(
            getattr(found, column), getattr(exact, column), 1e-11, err_msg=column
        )
    assert abs(found.exponent - gradients(spec.replace(documents=None)).exponent) > 0.02
    blocks = gradients(spec, blocks=4)
    np.testing.assert_allclose(blocks.q_blocks.mean(axis=1), exact.q, 1e-11)


def test_gradients_of_random_networks():
    whole = WHOLE.replace(depth=3, width=256, beta=1, sigma_v2=2)
    spec = whole.replace(documents=DOCUMENTS)
    measured = gradients(spec, sampled=True, draws=12)
    for name in ("q", "wv", "w1"):
        room = 3 * measured.errors[name] + 0.03 * getattr(measured, name)
        assert (np.abs(getattr(gradients(spec), name) - getattr(measured, name)) <= room).all()
    room = 3 * measured.errors["q"] + 0.03 * measured.q
    assert (np.abs(gradients(whole).q - measured.q) > room).any()  # negative control


def test_the_last_token_hears_its_own_document():
    found = influence(PACKED, 40)
    assert (found[:, :-8] == 0).all()
    assert (found[:, -8:] > 0).all()


REFUSED = {
    "no mask": ({"causal": False}, AssumptionError, "set causal = true"),
    "prefix": ({"prefix": 3}, AssumptionError, "exclude prefix"),
    "both": ({"chunk": 4}, AssumptionError, "documents exclude chunk"),
    "other context": ({"context": 41}, DomainError, "documents = "),
    "contexts": ({"context": [40, 80]}, DomainError, "documents = "),
    "no context": ({"context": "inf"}, DomainError, "documents = "),
    "none": ({"documents": []}, DomainError, "documents = "),
    "empty": ({"documents": [40, 0]}, DomainError, "documents = "),
    "half": ({"documents": [19.5, 20.5]}, DomainError, "documents = "),
    "number": ({"documents": 40}, DomainError, "documents = "),
    "ragged": ({"documents": [[20], [10, 10]]}, DomainError, "documents = "),
    "chunk": ({"documents": None, "chunk": 0}, DomainError, "chunk = 0"),
    "by layer": ({"pattern": [{"documents": [20, 20]}]}, DomainError, "pattern.documents"),
    "open layer": ({"pattern": [{"causal": False}]}, AssumptionError, "set causal = true"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    changes, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        PACKED.replace(**changes)


def test_no_theory_is_answered_by_that_of_the_plain_mask():
    with pytest.raises(TheoryError, match="documents or chunk in late_gradients"):
        gradients(PACKED, geometry="exchangeable")
    with pytest.raises(TheoryError, match="documents or chunk in late_gradients"):
        diagram(PACKED, beta=[0.5, 1.5], gradients=True)
    with pytest.raises(TheoryError, match="documents or chunk in the limit"):
        propagate(PACKED, theory="limit")
    many = WHOLE.replace(context=4096, documents=[64] * 64)
    assert propagate(many).rho[-1] > 0.1
    with pytest.raises(DomainError, match="number of documents or chunks = 64"):
        propagate(many, blocks=4)


def test_a_description_is_read_back():
    spec = ModelSpec.from_dict(PACKED.to_dict())
    assert spec.documents == DOCUMENTS
    assert PACKED.to_dict()["documents"] == list(DOCUMENTS)
    assert not {"documents", "chunk"} & set(WHOLE.to_dict())  # names of stored jobs stay
    late = propagate(SEGMENTED["by layer"], geometry="exchangeable")
    np.testing.assert_array_equal(late.rho, propagate(WHOLE, geometry="exchangeable").rho)
