"""A model of ours as lm-eval asks one: `lm_eval.api.model.LM` over `spcore.interfaces.harness.Subject`.

Texts become ids as lm-eval's own models have it, so that figures are those that others publish: a prompt begins as the tokenizer begins a
text, once, and what is too long loses its beginning. Both are counted nowhere in lm-eval's results, so `Asked.remarks` says it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from spcore.errors import DataError, RefusalError, short
from spcore.fitting import chatting, prompt_ids
from spcore.interfaces.harness import Subject
from spcore.writing_settings import DRAWS, SEARCH
from spcore_lm_eval.options import LmEvalOptions

UNLIMITED = 2048
"""Tokens of a window of a model that has no limit: lm-eval's own default."""
_SAME = {"temperature", "repetition_penalty", *DRAWS, *SEARCH}
"""What transformers' `generate`, in whose words tasks speak, calls as `GenerationSettings` does."""
_IDLE = {"use_cache", "pad_token_id", "output_scores", "return_dict_in_generate"}
"""What changes no answer."""


class Asked(TemplateLM):
    """Answers all of lm-eval's requests by a subject."""

    def __init__(self, subject: Subject, options: LmEvalOptions) -> None:
        super().__init__()
        self.subject, self.options, self.processor = subject, options, subject.processor
        positions = self.processor.max_length
        if options.max_length is not None and positions is not None and options.max_length > positions:
            raise RefusalError(f"max_length {options.max_length}: model {subject.source!r} has {positions} positions")
        self.max_length: int = options.max_length or positions or UNLIMITED
        special = self.processor.special
        first = special.get("bos", special.get("eos"))
        if first is None:
            raise RefusalError(
                f"model {subject.source!r}: its tokenizer has no token that begins or ends a text, after which one could be scored"
            )
        self._first = first
        self._begins = self.processor.decode([first], skip_special=False)
        self._cut: dict[str, list[int]] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was left out of prompts, so far."""
        return tuple(
            f"{len(tokens)} {'request' if len(tokens) == 1 else 'requests'} {what} {'was' if len(tokens) == 1 else 'were'} too long for {self.max_length} tokens and lost "
            f"{'its' if len(tokens) == 1 else 'their'} beginning, {sum(tokens)} tokens together"
            for what, tokens in self._cut.items()
        )

    # -- what lm-eval needs to know of texts -----------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.processor.special.get("eos", self._first)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._first

    @property
    def tokenizer_name(self) -> str:
        """What decides the ids."""
        return self.processor.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; None: begun as the tokenizer begins texts, where it does not begin so already (a chat template's)."""
        begun = not string.startswith(self._begins) if add_special_tokens is None else add_special_tokens
        if not string or not begun:
            return [int(i) for i in self.processor.encode(string, special=False).arrays["input_ids"]]
        return list(prompt_ids(self.processor, string, encoder=False))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a text; where the assistant's answer is begun in it, that is what the text ends with."""
        chats = chatting(self.processor)
        if add_generation_prompt or chat_history[-1]["role"] != "assistant":
            return chats.chat_text(chat_history, answer=add_generation_prompt)
        return chats.chat_text(chat_history[:-1]) + chat_history[-1]["content"]

    # -- requests --------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability, whether it is the likeliest) of each continuation."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = True, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for texts, before, after in requests:
            if not after or len(after) > self.max_length:
                raise DataError(
                    f"a continuation of {len(after)} tokens ({short(repr(texts[1]))}), expected: 1 to {self.max_length}"
                )
            own = self._fitted([*before, *after], self.max_length + 1, "to score")  # the last one is not read
            pairs.append((own[: -len(after)], after))
        return [(score.logprob, score.greedy) for score in self.subject.score(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each text, all of it, in windows that follow each other."""
        windows = [
            (number, window)
            for number, request in enumerate(requests)
            for window in map(
                make_disjoint_window,
                get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]), prefix_token=self._first, max_seq_len=self.max_length, context_len=1
                ),
            )
        ]  # fmt: skip
        found = [0.0] * len(requests)
        scores = self.subject.score([window for _, window in windows])
        for (number, _), score in zip(windows, scores, strict=True):
            found[number] += score.logprob
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """An answer to each prompt; those of equal settings are written together."""
        together: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            together.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        found: dict[int, str] = {}
        for numbers in together.values():
            first = requests[numbers[0]]
            settings = self._settings(first.args[1], first.task_name)
            room = self.max_length - settings["max_new_tokens"]
            if room < 1:
                raise RefusalError(
                    f"task {first.task_name!r}: answers of {settings['max_new_tokens']} tokens leave no room for a prompt in {self.max_length}"
                )
            prompts = [self._fitted(self.tok_encode(requests[n].args[0]), room, "to answer") for n in numbers]
            for number, answer in zip(numbers, self.subject.generate(prompts, **settings), strict=True):
                found[number] = answer["text"]
        return [found[number] for number in range(len(requests))]

    def _fitted(self, ids: list[int], most: int, what: str) -> list[int]:
        """The last tokens; what is left out is counted."""
        if len(ids) > most:
            self._cut.setdefault(what, []).append(len(ids) - most)
        return ids[-most:]

    def _settings(self, given: Mapping[str, Any], task: str | None) -> dict[str, Any]:
        """A task's `generation_kwargs` as settings of ours. Raises RefusalError for one that cannot be honoured."""
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), self.options.max_new_tokens))
        draws = kwargs.pop("do_sample") and kwargs.get("temperature", 0.0) > 0
        until = kwargs.pop("until", None) or []
        stop = [
            text for text in ([until] if isinstance(until, str) else until) if text
        ]  # an empty one is none, to lm-eval
        settings = {"max_new_tokens": kwargs.pop("max_gen_toks"), "stop": stop}
        beams = kwargs.pop("num_beams", 1)
        strange = sorted(set(kwargs) - _SAME - _IDLE)
        if strange:
            raise RefusalError(
                f"task {task!r}: generation_kwargs.{strange[0]} is not known here; known: {', '.join(sorted(_SAME | {'num_beams', 'until'}))}"
            )
        idle = _IDLE | (set() if draws else {"temperature", *DRAWS}) | (set() if beams > 1 else set(SEARCH))
        settings |= {name: value for name, value in kwargs.items() if name not in idle and value is not None}
        if not draws:
            settings["temperature"] = 0.0
        return {**settings, "beams": beams, "seed": self.options.seed}
