"""`generate`, `stream`, `chat` and `stream_chat` of a model's handle."""

from __future__ import annotations

import contextlib
import secrets
import threading
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spcore.components import Registry
from spcore.errors import RefusalError, UserError
from spcore.fitting import Asked, Message, Prompt, Room, chatting, fitted, is_ids
from spcore.interfaces.model import Head, Steps
from spcore.interfaces.runtime import Generates, GenerationRequest, Likelihood, Runner, Runtime
from spcore.interfaces.task import BoundTask, Prompts, Task
from spcore.recipe import lone_part, part_options
from spcore.sharing import Shared, View
from spcore.writing_settings import GenerationSettings, Preset, bound_constraint, request_fields, settings_of

if TYPE_CHECKING:
    from spcore.interfaces.harness import Harness, HarnessReport, Text
    from spcore.interfaces.model import LanguageModel, Processor
    from spcore.prompting import Writer
    from spcore.writing import Piece, Written

_LANGUAGE = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
PresetLike = str | Path | Mapping[str, Any] | Preset


@dataclass(frozen=True)
class Job:
    """What one call asks for. processor: turns tokens into text. task: whether the runner is loaded with the model's task. seed: of all
    draws; None where nothing is drawn."""

    processor: Processor
    prompts: tuple[Prompt, ...]
    requests: tuple[GenerationRequest, ...]
    stop: tuple[str, ...]
    task: bool
    seed: int | None

    def answer(self, at: int, written: Written) -> dict[str, Any]:
        """An answer as callers get it."""
        found = {
            "text": written.text, "finish": written.finish, "tokens": len(written.ids), "prompt_tokens": written.prompt_tokens,
        }  # fmt: skip
        seed = {"seed": self.seed} if self.seed is not None else {}
        left_out = self.prompts[at].left_out
        return {**found, **seed, **({"left_out": left_out} if left_out else {})}


class TextStream(Iterator[str]):
    """An answer as it is written: iterate over its pieces. Leaving the `with` block, or `close`, ends it where it is.

    text: what was given out so far. finish: "stop", "length"; "cancelled" for one that was closed; None while it goes on. seed: of the
    draws, None where nothing is drawn. left_out: tokens (of a conversation: messages) that there was no room for.
    """

    def __init__(self, job: Job, view: View, resources: contextlib.ExitStack) -> None:
        from spcore.writing import pieces

        self.text, self.finish, self.seed, self.left_out = "", None, job.seed, job.prompts[0].left_out
        self.prompt_tokens = len(job.prompts[0].ids)
        found = cast("Generator[Piece, None, None]", pieces(view, job.processor, job.requests, stop_strings=job.stop))
        self._pieces = resources.enter_context(contextlib.closing(found))
        self._close = weakref.finalize(self, resources.close)

    finish: str | None

    def __next__(self) -> str:
        """The next piece of text, never empty."""
        while self.finish is None:
            try:
                piece = next(self._pieces)
            except BaseException:
                self.close()
                raise
            self.finish = piece.finish
            if self.finish is not None:
                self._close()
            if piece.text:
                self.text += piece.text
                return str(piece.text)
        raise StopIteration

    def close(self) -> None:
        """End it; a second call does nothing."""
        if self.finish is None:
            self.finish = "cancelled"
        self._close()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writes(ABC):
    """The part of a model's handle that writes text. Threads may share it: what they ask for at a time is written in common batches."""

    registry: Registry
    source: str
    _runtime: str | Mapping[str, Any]
    _component: Runtime
    _lock: threading.RLock
    _shared: dict[Runner, Shared]

    @property
    @abstractmethod
    def _model(self) -> LanguageModel: ...

    @property
    @abstractmethod
    def saved(self) -> bool:
        """Whether it stands for a saved model, fine-tuned here."""

    @abstractmethod
    def known_task(self) -> tuple[Task, BoundTask] | None:
        """The task it has, or None."""

    @abstractmethod
    def _leased(self, *, task: bool = True) -> AbstractContextManager[Runner]: ...

    def generate(
        self, prompts: str | Sequence[str | Sequence[int]] = (), *, preset: PresetLike | None = None, **settings: Any
    ) -> list[dict[str, Any]]:
        """Go on from prompts, texts or token ids: one dict for each, in order; with n above 1 one for each of its answers, best or first one first.

        Keys: "text"; "finish" ("stop", or "length": max_new_tokens was reached); "tokens" and "prompt_tokens"; "sample" with n above 1;
        "seed" where tokens were drawn; "left_out", tokens of a prompt that `truncate` cut. settings: the fields of `GenerationSettings`
        (max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, beams, n, seed, stop, constraint, truncate, ...). An answer
        depends on its prompt, these and the seed alone, and not on what is written beside it; equal prompts of one call draw differently.
        preset: a file, or a mapping, with a prompt that takes the texts, and settings, which those given here go before. Raises
        SlimPajamaError.
        """
        from spcore.writing import write

        texts: list[Asked] = [prompts] if isinstance(prompts, str) else list(prompts)
        with self._begun(*_asked(texts, preset, settings, "generate")) as (job, view):
            found = write(view, job.processor, job.requests, stop_strings=job.stop)
        several = any(asked.n > 1 for asked in job.requests)
        return [
            {**job.answer(at, written), **({"sample": sample} if several else {})}
            for at, samples in enumerate(found)
            for sample, written in enumerate(samples)
        ]

    def stream(self, prompt: str | None = None, *, preset: PresetLike | None = None, **settings: Any) -> TextStream:
        """One prompt's answer, piece by piece; all pieces joined are the "text" of `generate`. What is wrong with it is raised here, before
        the first piece."""
        return self._stream(*_asked([] if prompt is None else [prompt], preset, settings, "stream"))

    def chat(self, messages: str | Sequence[Message], **settings: Any) -> dict[str, Any]:
        """Answer a conversation, [{"role": "system" | "user" | "assistant", "content": text}, ...], or one message, by the model's chat
        template. Keys and settings as of `generate`; truncate="left" leaves out the oldest turns, "left_out" says how many messages."""
        from spcore.writing import write

        with self._begun(*_conversation(messages, settings, "chat")) as (job, view):
            ((written,),) = write(view, job.processor, job.requests, stop_strings=job.stop)
        return job.answer(0, written)

    def stream_chat(self, messages: str | Sequence[Message], **settings: Any) -> TextStream:
        """As `chat`, piece by piece."""
        return self._stream(*_conversation(messages, settings, "stream_chat"))

    def score(self, asked: Sequence[tuple[Text, Text]]) -> list[Likelihood]:
        """How likely continuations are: of each (prompt, continuation), in order, `Likelihood`: the sum of the log-probabilities of its tokens,
        whether all of them are the likeliest, their number. Both are texts, or both token ids. Of texts, the tokens that the two together
        have beyond the prompt's: `("The capital of France is", " Paris")`. Decoders alone have such. Raises SlimPajamaError, for what
        does not fit the model's positions too."""
        from spcore.scoring import continuation, scored

        processor = self.processor
        with contextlib.ExitStack() as stack:
            with self._lock:
                self._writer()
                if "decoder_start" in self.generation():
                    raise RefusalError(
                        f"{self.source}: {self._model.family!r} is an encoder-decoder; `score` is for decoders"
                    )
                most = processor.max_length
                pairs = [continuation(processor, *pair, f"continuation {n}", most) for n, pair in enumerate(asked)]
                runner = stack.enter_context(self._leased())
            return scored(runner, processor, pairs)

    def evaluate_tasks(self, tasks: Sequence[str], *, harness: str | None = None, **options: Any) -> HarnessReport:
        """Figures on a harness's own tasks, by name ("arc_easy"). harness: a component's name; None: the one that is the default. options:
        the harness's own. Raises SlimPajamaError; RefusalError for a model that writes no text."""
        self._check_runtime()
        self._writer()
        usual = self.registry.defaults("harness")
        if harness is None and len(usual) != 1:
            what = "several harnesses are the default" if usual else "no harness is installed"
            raise UserError(
                f"evaluate_tasks: {what}; name one: {', '.join(self.registry.names('harness')) or 'none is known'}"
            )
        part = lone_part({"use": harness or usual[0], **options}, "harness", self.registry)
        created: Harness = self.registry.create("harness", part.use, part_options(part, "harness", self.registry))
        return created.evaluate(self, [tasks] if isinstance(tasks, str) else list(tasks))

    @property
    def processor(self) -> Processor:
        """Text to ids and back."""
        return self._model.processor

    def _prepared(self, prompts: Sequence[Asked], settings: GenerationSettings) -> Job:
        """All that is known before weights are read. Raises SlimPajamaError."""
        from spcore.generation.checks import check_request

        self._check_runtime()
        task, own = self._writer(), self.generation()
        fields = request_fields(settings, own)
        processor = self.processor
        capacity = self._component.capacity(self._model)
        room = Room.of(processor, capacity, own)
        stop, stop_ids = settings.stops(), tuple(own.get("stop", ()))
        found = [fitted(processor, prompt, settings, room, _called(n, prompts)) for n, prompt in enumerate(prompts)]
        if any(_converses(prompt) for prompt in prompts):
            chats = chatting(processor)
            stop, stop_ids = (*stop, *chats.turn_stop_strings), (*stop_ids, *chats.turn_stop)
        seed = secrets.randbits(32) if settings.seed is None else settings.seed
        grammar, seen = bound_constraint(settings, processor, self.registry), Counter[tuple[int, ...]]()
        requests: list[GenerationRequest] = []
        for prompt, ready in zip(prompts, found, strict=True):
            requests.append(
                GenerationRequest(
                    ready.ids, room.after(len(ready.ids), settings), seed=seed, variant=seen[ready.ids],
                    stop=tuple(dict.fromkeys(stop_ids)), grammar=grammar,
                    keep=_converses(prompt), **fields,
                )
            )  # fmt: skip
            check_request(requests[-1], capacity, own.get("decoder_start"))
            seen[ready.ids] += 1
        return Job(processor, tuple(found), tuple(requests), stop, task, seed if fields.get("temperature") else None)

    def _check_runtime(self) -> None:
        if self._component.generates:
            return
        name = self._runtime if isinstance(self._runtime, str) else self._runtime.get("use")
        able = [
            n for n in self.registry.names("runtime") if not self.registry.missing(self.registry.find("runtime", n))
        ]
        able = [n for n in able if self.registry.load("runtime", n).generates]
        raise RefusalError(f"runtime {name!r} writes no text", hint=f"Those that do: {', '.join(able) or 'none'}")

    def _writer(self) -> bool:
        """Whether the model writes by its task's head; else by its own. Raises RefusalError for one that writes nothing."""
        try:
            known = self.known_task()
        except RefusalError:  # a tokenizer without what the task needs, to learn: it may do to write
            if self.saved:
                raise
            known = None
        head = known[1].head if known is not None else _LANGUAGE
        if head.kind != "vocabulary":
            raise RefusalError(
                f"{self.source}: it was trained for labels or numbers (head {head.kind!r}), and writes no text"
            )
        if not self._model.anatomy(head).causal:
            raise RefusalError(
                f"{self.source}: {self._model.family!r} reads a text from both sides, and writes none",
                hint="Use a decoder (Llama, Qwen, GPT-2) or an encoder-decoder (T5, BART)",
            )
        return known is not None

    def generation(self) -> Mapping[str, Any]:
        """What the model's own files say of generating: the settings that hold where none are given."""
        return self._model.generation() if isinstance(self._model, Steps) else {}

    @contextlib.contextmanager
    def _begun(self, prompts: Sequence[Asked], settings: GenerationSettings) -> Iterator[tuple[Job, View]]:
        """A job of the model as it is now, and what it is asked through."""
        with contextlib.ExitStack() as stack:
            with self._lock:
                job = self._prepared(prompts, settings)
                runner = stack.enter_context(self._leased(task=job.task))
            yield job, stack.enter_context(self._viewed(runner))

    @contextlib.contextmanager
    def _viewed(self, runner: Runner) -> Iterator[View]:
        """A runner that generates, for one of several callers. Raises RefusalError for one that does not."""
        if not isinstance(runner, Generates) or "generate" not in runner.capabilities:
            raise RefusalError(f"{self.source}: the runtime does not decode {self._model.family!r} step by step")
        view = View(self._shared.setdefault(runner, Shared(runner)))
        try:
            yield view
        finally:
            view.close()

    @contextlib.contextmanager
    def writer(self, runner: Runner, bound: BoundTask) -> Iterator[Writer | None]:
        """What answers the requests of a task that predicts by generating, beside other callers; None for another task."""
        if not isinstance(bound, Prompts):
            yield None
            return
        from spcore.prompting import Writer

        self._check_runtime()
        with self._viewed(runner) as view:
            yield Writer(view, self._model)

    def _stream(self, prompts: Sequence[Asked], settings: GenerationSettings) -> TextStream:
        with contextlib.ExitStack() as stack:
            job, view = stack.enter_context(self._begun(prompts, settings))
            return TextStream(job, view, stack.pop_all())


def _asked(
    texts: list[Asked], preset: PresetLike | None, given: Mapping[str, Any], what: str
) -> tuple[list[Asked], GenerationSettings]:
    """The prompts, or conversations, and settings of a call. Raises RecipeError, UserError."""
    chosen = preset if preset is None or isinstance(preset, Preset) else Preset.read(preset)
    settings = settings_of(given, what, chosen)
    prompts: list[Asked] = [*(texts if chosen is None else chosen.prompts(_texts(texts)))]
    if what == "stream":
        _single(settings, what)
    if not prompts:
        raise UserError(f"{what}: no prompt given")
    if chosen is not None and chosen.chat:
        system: list[Message] = [] if chosen.system is None else [{"role": "system", "content": chosen.system}]
        prompts = [[*system, {"role": "user", "content": text}] for text in prompts]
    return prompts, settings


def _texts(prompts: Sequence[Asked]) -> list[str]:
    """Prompts that a preset takes. Raises UserError for token ids."""
    if any(not isinstance(prompt, str) for prompt in prompts):
        raise UserError("preset: its prompt takes texts; give texts, or token ids without a preset")
    return [str(prompt) for prompt in prompts]


def _conversation(
    messages: str | Sequence[Message], given: Mapping[str, Any], what: str
) -> tuple[list[Asked], GenerationSettings]:
    settings = settings_of(given, what)
    _single(settings, what)
    return [[{"role": "user", "content": messages}] if isinstance(messages, str) else messages], settings


def _single(settings: GenerationSettings, what: str) -> None:
    if settings.n > 1:
        raise RefusalError(f"n {settings.n}: {what} gives one answer; use generate")


def _converses(prompt: Asked) -> bool:
    return isinstance(prompt, Sequence) and not isinstance(prompt, str) and not is_ids(prompt)


def _called(n: int, prompts: Sequence[Asked]) -> str:
    """A prompt's name in a line about it."""
    what = "conversation" if _converses(prompts[n]) else "prompt"
    return f"the {what}" if len(prompts) == 1 else f"{what} {n}"
