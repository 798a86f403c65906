"""How a token is chosen, against transformers' own processors and against the distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from spcore.errors import RunError
from spcore.generation import Chooser, address, draw
from spcore.generation.choosing import Logits, limited
from spcore.interfaces.runtime import GenerationRequest


def asked(**more: Any) -> GenerationRequest:
    return GenerationRequest(**{"ids": (1,), **more})


def chosen(logits: np.ndarray, answer: Sequence[int] = (), **more: Any) -> tuple[int, float]:
    return Chooser(asked(**more)).choose(Logits.of(logits[None]), 0, sample=0, answer=answer)


def drawn(logits: np.ndarray, count: int, **more: Any) -> np.ndarray:
    chooser, measured = Chooser(asked(**more)), Logits.of(logits[None])
    return np.array([chooser.choose(measured, 0, sample=n)[0] for n in range(count)])


def probabilities(logits: np.ndarray, answer: Sequence[int] = (), **more: Any) -> np.ndarray:
    """[vocabulary], 0 of what may not be drawn."""
    chooser = Chooser(asked(**more))
    ids, mass = limited(chooser.processed(logits, answer, None), chooser.asked)
    found = np.zeros(len(logits))
    found[ids] = mass / mass.sum()
    return found


def by_transformers(logits: np.ndarray, answer: Sequence[int] = (), **more: Any) -> np.ndarray:
    """The same by its logits processors, in its order, in float64."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as their

    request = asked(**more)
    steps: list[Callable[[Any, Any], Any]] = []
    if request.repetition_penalty != 1:
        steps.append(their.RepetitionPenaltyLogitsProcessor(request.repetition_penalty))
    if request.no_repeat_ngram:
        steps.append(their.NoRepeatNGramLogitsProcessor(request.no_repeat_ngram))
    if request.suppress:
        steps.append(their.SuppressTokensLogitsProcessor(list(request.suppress), device="cpu"))
    if request.min_new_tokens:
        least = (len(request.ids), request.min_new_tokens, list(request.stop))
        steps.append(their.MinNewTokensLengthLogitsProcessor(*least, device="cpu"))
    steps.append(their.TemperatureLogitsWarper(float(request.temperature)))
    if request.forced_last is not None:
        most = len(request.ids) + request.max_new_tokens
        steps.append(their.ForcedEOSTokenLogitsProcessor(most, [request.forced_last], device="cpu"))
    if request.top_k:
        steps.append(their.TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        steps.append(their.TopPLogitsWarper(request.top_p))
    if request.min_p:
        steps.append(their.MinPLogitsWarper(request.min_p))
    ids = torch.tensor([[*request.ids, *answer]])
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for step in steps:
        scores = step(ids, scores)
    return np.asarray(scores.softmax(-1)[0])


ALL = {"temperature": 1.8, "top_k": 30, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3, "min_new_tokens": 3, "stop": (7,)}  # fmt: skip
SETTINGS: list[dict[str, Any]] = [
    {}, {"temperature": 0.3}, {"top_k": 3}, {"top_k": 40}, {"top_p": 0.2}, {"top_p": 0.95}, {"min_p": 0.05}, {"min_p": 1.0}, {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.5}, {"min_new_tokens": 4, "stop": (3, 5)}, {"min_new_tokens": 2, "stop": (3, 5)},
    {"suppress": (0, 6)}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}, {"no_repeat_ngram": 9}, {"forced_last": 4, "max_new_tokens": 3},
    {"forced_last": 4, "max_new_tokens": 4}, ALL,
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [8, 50, 3000])
def test_tokens_and_probabilities_are_those_of_transformers(settings: dict[str, Any], size: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        logits = (rng.standard_normal(size) * rng.choice([0.5, 4])).astype(np.float32)
        ids, answer = (tuple(int(i) for i in rng.integers(0, 8, count)) for count in (6, 2))
        request = {"ids": ids, "temperature": 1.0, **settings}
        found, wanted = probabilities(logits, answer, **request), by_transformers(logits, answer, **request)
        assert set(np.flatnonzero(found)) == set(np.flatnonzero(wanted))
        assert np.abs(found - wanted).max() < 1e-6  # penalties are float32 here, float64 there


@pytest.mark.parametrize("settings", [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.2}, ALL], ids=str)
def test_draws_follow_the_distribution(settings: dict[str, Any]) -> None:
    logits = np.random.default_rng(4).permutation(np.linspace(-2, 2, 12)).astype(np.float32)
    request = {"temperature": 0.9, **settings}
    wanted = by_transformers(logits, **request)
    found = np.bincount(drawn(logits, 20_000, **request), minlength=12)
    kept = wanted > 0
    assert found[~kept].sum() == 0
    assert chisquare(found[kept], 20_000 * wanted[kept] / wanted[kept].sum()).pvalue > 1e-3


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits = np.zeros(5, np.float32)
    found = Chooser(asked(ids=(0, 4), presence_penalty=0.5, frequency_penalty=0.25)).processed(logits, (1, 2, 2), None)
    assert found.tolist() == [0, -0.75, -1, 0, 0], "of the answer alone, not of the prompt"
    assert logits.tolist() == [0] * 5


def test_a_forced_first_token_comes_first_and_no_other_way_of_choosing_matters() -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    for more in ({}, {"temperature": 1.0, "top_k": 2}, {"suppress": (7,)}):
        assert chosen(logits, forced_first=7, **more)[0] == 7
        assert chosen(logits, (7,), forced_first=7, suppress=(int(logits.argmax()),))[0] == logits.argsort()[-2]


def test_n_grams_of_an_encoder_decoder_are_those_of_its_answer() -> None:
    logits = np.arange(5, dtype=np.float32)
    chooser = Chooser(asked(ids=(1, 4), no_repeat_ngram=2), decoder_start=0)
    assert chooser.processed(logits, (0, 1), None).tolist() == [0, 1, 2, 3, 4]
    assert chooser.processed(logits, (0, 3, 0), None).tolist() == [-np.inf, 1, 2, -np.inf, 4]


def test_an_encoders_prompt_is_not_penalised_and_the_decoders_start_is() -> None:
    chooser = Chooser(asked(ids=(3, 4), repetition_penalty=2.0), decoder_start=0)
    assert chooser.processed(np.full(5, 2.0, np.float32), (1,), None).tolist() == [1, 1, 2, 2, 2]


def test_greedy_takes_the_largest_and_of_equal_ones_the_first() -> None:
    assert chosen(np.array([0.0, 3.0, 3.0, 1.0], np.float32))[0] == 1
    assert chosen(np.array([0.0, 3.0, 3.0, 1.0], np.float32), (1,), presence_penalty=0.1)[0] == 2


def test_large_logits_do_not_overflow_and_the_logprob_is_the_models() -> None:
    token, logprob = chosen(np.array([1e4, 1e4 - 1, -np.inf], np.float32), temperature=0.01)
    assert token == 0
    assert logprob == pytest.approx(-np.log1p(np.exp(-1)), abs=1e-6)


def test_logprobs_of_a_large_vocabulary_are_exact_to_float32() -> None:
    logits = np.random.default_rng(2).standard_normal(200_000).astype(np.float32)
    wide = logits.astype(np.float64)
    token, logprob = chosen(logits)
    assert logprob == pytest.approx(wide[token] - np.log(np.exp(wide).sum()), abs=2e-6)


def test_top_k_of_one_and_a_tiny_top_p_are_greedy() -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    assert set(drawn(logits, 50, temperature=3.0, top_k=1)) == {logits.argmax()}
    assert set(drawn(logits, 50, temperature=3.0, top_p=1e-9)) == {logits.argmax()}
    assert set(drawn(logits, 50, temperature=1e-300)) == {logits.argmax()}


def test_limits_keep_equal_tokens_together_or_take_the_smallest_ids() -> None:
    logits = np.zeros(4, np.float32)
    assert set(drawn(logits, 200, temperature=1.0, top_k=99)) == {0, 1, 2, 3}
    assert set(drawn(logits, 200, temperature=1.0, top_k=2)) == {0, 1, 2, 3}
    assert set(drawn(logits, 200, temperature=1.0, top_p=0.5)) == {0, 1}
    assert set(drawn(np.zeros(3000, np.float32), 2000, temperature=1.0, top_p=0.001)) == {0, 1, 2}


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert set(drawn(logits, 300, temperature=5.0)) == {1, 3}


def test_a_draw_is_a_function_of_its_address_alone() -> None:
    base = {"ids": (5, 6), "seed": 1, "variant": 0, "temperature": 1.0}
    places = {address(asked(**{**base, **more})) for more in ({}, {"ids": (5, 7)}, {"ids": (5,)}, {"seed": 2}, {"variant": 1})}  # fmt: skip
    assert len(places) == 5
    same = [address(asked(**{**base, **more})) for more in ({}, {"top_k": 3}, {"n": 2}, {"max_new_tokens": 4})]
    assert len(set(same)) == 1, "what does not name the row decides no draw"
    assert address(asked(seed=-1)) == address(asked(seed=2**64 - 1))
    values = [draw(same[0], sample, position) for sample in (0, 1) for position in (0, 1)]
    assert len(set(values)) == 4
    assert values == [draw(same[0], sample, position) for sample in (0, 1) for position in (0, 1)]


def test_draws_of_neighbouring_addresses_are_spread_evenly() -> None:
    places = [address(asked(seed=seed)) for seed in range(40)]
    values = np.array([draw(place, 0, position) for place in places for position in range(40)])
    assert values.min() >= 0
    assert values.max() < 1
    assert chisquare(np.histogram(values, 10, (0, 1))[0]).pvalue > 1e-3


def test_where_nothing_may_follow_it_says_so() -> None:
    with pytest.raises(RunError, match="new token 3: no token of the model's vocabulary may follow"):
        chosen(np.full(3, -np.inf, np.float32), (0, 1))
