"""Kind `constraint`."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np

from spcore.errors import UserError
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Constraint, Grammar, Matcher
from spcore.testing.checks import CannotCheck, Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

_TOKENS = 12
_WALKS = 6


class ConstraintCase:
    """A constraint under test with a processor. grammar, begin (what a text may begin with): once `constraint.binds` has run."""

    grammar: Grammar
    begin: np.ndarray

    def __init__(self, constraint: Any, processor: Processor) -> None:
        self.constraint, self.processor = constraint, processor

    def walk(self, seed: int) -> Iterator[tuple[Matcher, int]]:
        """Along a text of random tokens: a matcher and the token that it is about to take."""
        rng = np.random.default_rng(seed)
        matcher = self.grammar.start()
        for _ in range(_TOKENS):
            follow = np.flatnonzero(matcher.allowed())
            if not len(follow):
                return
            token = int(rng.choice(follow))
            yield matcher, token
            matcher.advance(token)


def characters() -> Processor:
    """A processor of single printable ASCII characters, whose tokens 0 to 2 are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from spcore.tokenizing import TokenizerProcessor

    special = ("<pad>", "<eos>", "<unk>")
    names = [*special, *string.printable]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(special))
    return TokenizerProcessor(
        tokenizer, special={"pad": 0, "eos": 1, "unk": 2}, fill={"input_ids": 0}, vocabulary_size=len(names), max_length=None, fingerprint="characters",
        types=False, left=False,
    )  # fmt: skip


@check("constraint.contract", "it has the members of Constraint", gate=True)
def constraint_contract(case: ConstraintCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.constraint, Constraint, "constraint")


@check("constraint.binds", "it binds to a vocabulary of characters, and a text begins somewhere", gate=True)
def constraint_binds(case: ConstraintCase) -> Iterator[Wrong]:
    """One that cannot be expressed in characters says so."""
    try:
        case.grammar = case.constraint.bind(case.processor)
    except UserError as error:
        raise CannotCheck(f"it does not bind to {case.processor.vocabulary_size} characters: {error}") from error
    yield from against(case.grammar, Grammar, "grammar:")
    matcher = case.grammar.start()
    yield from against(matcher, Matcher, "matcher:")
    case.begin = matcher.allowed().copy()
    if not matcher.finished and not case.begin.any():
        yield Wrong("no token may begin a text, which may not be empty either", "a token that is allowed")


@check("constraint.allows", "what may follow is [vocabulary] bool, no special token in it, and may be taken", gate=True)
def constraint_allows(case: ConstraintCase) -> Iterator[Wrong]:
    """Random texts of up to twelve tokens."""
    special = sorted(case.processor.special_ids)
    for seed in range(_WALKS):
        for matcher, _ in case.walk(seed):
            mask = matcher.allowed()
            if mask.dtype != bool or mask.shape != (case.processor.vocabulary_size,):
                yield Wrong(f"{mask.dtype} {mask.shape}", f"bool ({case.processor.vocabulary_size},)")
                return
            if mask[special].any():
                yield Wrong(f"special tokens {[n for n in special if mask[n]]} are allowed", "none of them")
                return
            if not isinstance(matcher.finished, bool):
                yield Wrong(f"finished {shown(matcher.finished)}", "True or False")
                return


@check("constraint.repeats", "the same tokens lead to the same place, and looking changes nothing")
def constraint_repeats(case: ConstraintCase) -> Iterator[Wrong]:
    """Each walk twice, the second time looking twice."""
    for seed in range(_WALKS):
        first = [(matcher.allowed().copy(), matcher.finished, token) for matcher, token in case.walk(seed)]
        again = case.grammar.start()
        if not np.array_equal(again.allowed(), case.begin):
            yield Wrong("a text that begins elsewhere than the first one", "each at the beginning")
            return
        for mask, finished, token in first:
            for _ in range(2):
                if not np.array_equal(again.allowed(), mask) or again.finished != finished:
                    yield Wrong("other tokens are allowed after the same ones", "the same")
                    return
            again.advance(token)


@check("constraint.copies", "a copy goes its own way")
def constraint_copies(case: ConstraintCase) -> Iterator[Wrong]:
    """Copied at every token of a walk; compared once the walk has gone on."""
    for seed in range(_WALKS):
        kept = [(matcher.copy(), matcher.allowed().copy(), matcher.finished) for matcher, _ in case.walk(seed)]
        for copy, mask, finished in kept:
            if not np.array_equal(copy.allowed(), mask) or copy.finished != finished:
                yield Wrong("a copy that moved with the matcher it was made of", "one that stays")
                return


CHECKS: tuple[Check, ...] = (
    constraint_contract, constraint_binds, constraint_allows, constraint_repeats, constraint_copies,
)  # fmt: skip


def check_constraint(
    constraint: Any,
    *,
    processor: Processor | None = None,
    where: Where = Where(),  # noqa: B008 -- frozen
) -> Report:
    """Check a constraint. processor: whose vocabulary it is bound to; default: printable ASCII characters."""
    return run_checks(CHECKS, ConstraintCase(constraint, processor or characters()), where)
