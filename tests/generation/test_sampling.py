"""How a token is chosen, against transformers' own limits and against the distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from spcore.generation import choose, draw
from spcore.interfaces.runtime import GenerationRequest


def asked(**more: float) -> GenerationRequest:
    return GenerationRequest((1,), **more)  # type: ignore[arg-type]


def drawn(logits: np.ndarray, count: int, **more: float) -> np.ndarray:
    request = asked(**more)
    return np.array([choose(logits, request, request=0, sample=0, position=n)[0] for n in range(count)])


def test_greedy_takes_the_largest_and_of_equal_ones_the_first() -> None:
    assert choose(np.array([0.0, 3.0, 3.0, 1.0], np.float32), asked(), request=0, sample=0, position=0)[0] == 1


def test_large_logits_do_not_overflow() -> None:
    token, logprob = choose(
        np.array([1e4, 1e4 - 1, -np.inf], np.float32), asked(temperature=0.01), request=0, sample=0, position=0
    )
    assert token == 0
    assert logprob == pytest.approx(-np.log1p(np.exp(-1)), abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.8), (2.0, 5, 0.9)]
)
def test_draws_follow_the_distribution_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    torch = pytest.importorskip("torch")
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(4).permutation(np.linspace(-1, 1, 8)).astype(np.float32)
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None].clone())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    wanted = scores.softmax(-1)[0].numpy().astype(np.float64)
    found = np.bincount(drawn(logits, 4000, temperature=temperature, top_k=top_k, top_p=top_p), minlength=8)
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(wanted))
    kept = wanted > 0
    assert chisquare(found[kept], 4000 * wanted[kept] / wanted[kept].sum()).pvalue > 1e-3


def test_top_k_of_one_and_a_tiny_top_p_are_greedy() -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    assert set(drawn(logits, 50, temperature=3.0, top_k=1)) == {logits.argmax()}
    assert set(drawn(logits, 50, temperature=3.0, top_p=1e-9)) == {logits.argmax()}


def test_a_top_k_beyond_the_vocabulary_is_no_limit() -> None:
    logits = np.zeros(4, np.float32)
    assert set(drawn(logits, 200, temperature=1.0, top_k=99)) == {0, 1, 2, 3}


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert set(drawn(logits, 300, temperature=5.0)) == {1, 3}


def test_a_draw_is_a_function_of_its_address_alone() -> None:
    addresses = [
        (seed, request, sample, position)
        for seed in (0, 1)
        for request in (0, 7)
        for sample in (0, 1)
        for position in (0, 1)
    ]
    values = [draw(*address) for address in addresses]
    assert values == [draw(*address) for address in addresses]
    assert len(set(values)) == len(values)
    assert draw(-1, 0, 0, 0) == draw(2**64 - 1, 0, 0, 0)
    assert draw(3, 1, 4, 1) == pytest.approx(0.5, abs=0.5)


def test_draws_of_neighbouring_addresses_are_spread_evenly() -> None:
    values = np.array([draw(0, request, 0, position) for request in range(40) for position in range(40)])
    counts = np.histogram(values, 10, (0, 1))[0]
    assert chisquare(counts).pvalue > 1e-3
