"""Task `question-answering`: labels are the answer's own characters in whichever window holds them, losses are transformers', answers come back
as spans of the original text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from task_tools import PlainOps, tensors
from transformers import BertConfig, BertForQuestionAnswering

from objectives.language_tools import real
from spcore.errors import DataError, RefusalError
from spcore.evaluating import merge_parts
from spcore.features import outcome
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.model import Encoding
from spcore.interfaces.task import IGNORE, Batch, EvalPart, Feature, Limits
from spcore.loading import filler
from spcore.testing.fakes import FakeProcessor
from spcore.testing.suites.task import check_task
from spcore_tasks.options import QuestionAnsweringOptions
from spcore_tasks.question_answering import UNHELD, QuestionAnswering
from spcore_tasks.spans import as_text

CONTEXT = "one two three four five six seven eight nine ten"
SMALL = Limits(10, stride=2)
"""Windows of 5 words with `row`'s question: [cls] q1 q2 [sep] ..... [sep], each 3 words after the one before."""
EVALUATION = replace(SMALL, evaluation=True)


def bind(limits: Limits = SMALL, processor: Any = None, state: Mapping[str, Any] | None = None, **options: Any) -> Any:
    task = QuestionAnswering(QuestionAnsweringOptions(**options))
    schema = Schema({name: Column("text") for name in ("question", "context", "answers")})
    return task.bind(processor or FakeProcessor(), None, dict(state) if state else schema, limits)


def row(
    answer: str | None, context: str = CONTEXT, start: int | None = None, question: str = "q1 q2"
) -> dict[str, Any]:
    texts = [] if answer is None else [answer]
    starts = [] if answer is None else [context.index(answer) if start is None else start]
    return {"question": question, "context": context, "answers": {"text": texts, "answer_start": starts}}


def features(bound: Any, rows: Sequence[dict[str, Any]]) -> list[Feature]:
    made = [(n, feature) for n, one in enumerate(rows) for feature in bound.featurize(one)]
    return [replace(feature, id=i, row_id=n) for i, (n, feature) in enumerate(made)]


def collated(bound: Any, made: Sequence[Feature], longer: int = 0) -> Batch:
    batch: Batch = bound.collate([[f] for f in made], max(f.length for f in made) + longer)
    return batch


def told(feature: Feature) -> str | None:
    """The characters that a window's labels stand for; None for no answer."""
    first, last = feature.arrays["span"].tolist()
    if first == last == feature.arrays["place"][2]:
        return None
    offsets = feature.arrays["offsets"]
    return as_text(feature.arrays["text"])[offsets[first, 0] : offsets[last, 1]]


# -- windows and labels -------------------------------------------------------------------------------------------


def test_windows_hold_the_context_with_the_question_before_it() -> None:
    made = bind().featurize(row("ten"))
    assert [as_text(f.arrays["text"]) for f in made] == ["one two three four five", "four five six seven eight", "seven eight nine ten"]  # fmt: skip
    assert [f.length for f in made] == [10, 10, 9]
    first = FakeProcessor().encode("q1 q2", "one two three four five").arrays
    assert {name: made[0].arrays[name].tolist() for name in first} == {name: a.tolist() for name, a in first.items()}
    assert [f.arrays["place"].tolist() for f in made] == [[0, 0, 0], [1, 14, 0], [2, 28, 0]]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("one two", ["one two", None, None]),
        ("five", ["five", "five", None]),
        ("five six", [None, "five six", None]),
        ("four five six", [None, "four five six", None]),
        ("ten", [None, None, "ten"]),
        (None, [None, None, None]),
    ],
)
def test_each_window_that_holds_the_answer_whole_has_it(answer: str | None, expected: list[str | None]) -> None:
    assert [told(f) for f in bind(no_answer=True).featurize(row(answer))] == expected


def test_an_answer_that_no_window_holds_is_dropped_in_training_and_asked_in_an_evaluation() -> None:
    long = row("three four five six seven eight")
    with pytest.raises(DataError, match=f"^{UNHELD}$"):
        bind().featurize(long)
    made = features(bind(EVALUATION), [long])
    assert all("span" not in f.arrays for f in made)
    assert bind().metrics(evaluated(bind(), made))["unreachable"] == 1
    several = {**long, "answers": {"text": ["three four five six seven eight", "nine"], "answer_start": [8, 39]}}
    assert [told(f) for f in bind().featurize(several)] == [None, None, "nine"]


def test_questions_without_an_answer_need_a_word() -> None:
    with pytest.raises(DataError, match=r"^a question without an answer \(task\.no_answer=true learns"):
        bind().featurize(row(None))
    for counts, expected in (({"False": 3}, False), ({"False": 3, "True": 1}, True), (None, False)):
        schema = Schema({"is_impossible": Column("boolean", counts=counts)})
        bound = QuestionAnswering(QuestionAnsweringOptions()).bind(FakeProcessor(), None, schema, SMALL)
        assert bound.state()["no_answer"] is expected
        assert ("best_f1" in bound.metric_names) is expected


def test_a_stride_that_is_too_large_is_one_line() -> None:
    with pytest.raises(
        RefusalError, match=r"^data\.stride 6: windows of 10 tokens have room for a question and 6 of a context"
    ):
        bind(Limits(10, stride=6))
    with pytest.raises(RefusalError, match=r"^data\.max_length 4: no room for a question and a context; give more"):
        bind(Limits(4))
    with pytest.raises(
        DataError, match=r"^a question that leaves no more of 10 tokens than the 2 by which windows overlap"
    ):
        bind().featurize(row("ten", question="a b c d e"))


def test_the_overlap_goes_with_the_saved_model() -> None:
    assert bind(Limits(64)).overlap == 21
    assert bind(Limits(None)).overlap == 128
    state = bind(Limits(64, stride=7)).state()
    assert bind(Limits(64), state=state).overlap == 7
    assert bind(Limits(12), state=state).overlap == 4, "smaller windows than it was trained with"
    assert bind(Limits(64, stride=9), state=state).overlap == 9


def test_a_tokenizer_that_does_not_tell_where_tokens_lie_is_refused() -> None:
    class Blind(FakeProcessor):
        def encode(self, *args: Any, **settings: Any) -> Encoding:
            return replace(super().encode(*args, **settings), offsets=None)

    with pytest.raises(RefusalError, match="does not tell where its tokens lie"):
        bind(processor=Blind())


TEXTS = st.lists(st.sampled_from(["The", "dog", "Größe", "naïve", "1,234", "weren't", "中文", "在", "🙂🙂", "within", "…", "x"]), min_size=1, max_size=30)  # fmt: skip
GAPS = st.sampled_from([" ", "  ", "\n", "\u00a0", ""])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@given(st.data(), TEXTS, GAPS, st.sampled_from([24, 40, 200]), st.sampled_from([None, 3, 11]))
@settings(max_examples=40, deadline=None)
def test_labels_are_the_answers_own_tokens(
    kind: str, data: Any, words: list[str], gap: str, size: int, stride: int | None
) -> None:
    """Over tokenizers and windows: what the labels stand for holds the answer, begins and ends with a token of it, and is exactly it
    where tokens end where it does."""
    context = gap.join(words)
    first = data.draw(st.integers(0, len(context) - 1))
    answer = context[first : data.draw(st.integers(first + 1, len(context)))]
    assume(answer.strip())
    first += len(answer) - len(answer.lstrip())
    answer = answer.strip()
    made = outcome(
        row(answer, context, first, "The dog?"), bind(Limits(size, stride=stride), real(kind), no_answer=True)
    )
    if isinstance(made, str):
        assert made == UNHELD
        assert size < 200
        return
    found = [(f, told(f)) for f in made if told(f) is not None]
    assert found, "one window at least holds it"
    whole = real(kind).encode("The dog?", context)
    assert whole.offsets is not None
    assert whole.parts is not None
    spans = whole.offsets[whole.parts == 1]
    for feature, text in found:
        begin = int(feature.arrays["place"][1]) + feature.arrays["offsets"][feature.arrays["span"][0], 0]
        assert context[begin : begin + len(text)] == text
        assert begin <= first
        assert first + len(answer) <= begin + len(text)
        inner = [context[a:b] for a, b in spans.tolist() if b > begin and a < begin + len(text)]
        assert len(text) - len(answer) < len(inner[0]) + len(inner[-1]), "no token too many"
    assert max(f.length for f in made) <= size


# -- the loss -----------------------------------------------------------------------------------------------------


def tiny() -> Any:
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertForQuestionAnswering(config).eval()


def outputs_of(model: Any, batch: Batch) -> dict[str, torch.Tensor]:
    inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    found = model(**inputs)
    return {"start_logits": found.start_logits, "end_logits": found.end_logits}


def evaluated(bound: Any, made: Sequence[Feature], model: Any = None, longer: int = 0) -> EvalPart:
    batch = collated(bound, made, longer)
    with torch.no_grad():
        part: EvalPart = bound.reduce(outputs_of(model or tiny(), batch), tensors(batch), PlainOps())
    return part


ROWS = [
    row("one two"),
    row("five six"),
    row("nine"),
    row("red", "a red house", question="q"),
    row(None, "no house here", question="q9"),
]


def test_the_loss_is_that_of_transformers() -> None:
    """Window by window, without padding: transformers lets padding take a share of the probability."""
    bound, model = bind(no_answer=True), tiny()
    made = features(bound, ROWS)
    alone = []
    for feature in made:
        batch = collated(bound, [feature])
        first, last = torch.from_numpy(feature.arrays["span"])[:, None]
        inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        alone.append(model(**inputs, start_positions=first, end_positions=last).loss)
    batch = collated(bound, [*made, filler(made[0])], longer=3)
    (term,) = bound.loss(outputs_of(model, batch), tensors(batch), PlainOps())
    assert batch.weights == {"span": float(len(made))}
    torch.testing.assert_close(term.sum / batch.weights["span"], torch.stack(alone).mean())
    term.sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_predictions_have_no_labels() -> None:
    bound = bind()
    made = features(bound, [{"question": "q1 q2", "context": CONTEXT}])
    batch = collated(bound, made)
    assert batch.weights == {"span": 0.0}
    assert (batch.targets["labels"] == IGNORE).all()


# -- answers and figures ------------------------------------------------------------------------------------------


def logits(bound: Any, made: Sequence[Feature], best: Mapping[int, tuple[int, int, float]]) -> dict[str, np.ndarray]:
    """Outputs that like one span of a window: feature id -> (first token, last token, how much); all others 0."""
    length = max(f.length for f in made)
    found = {name: np.zeros((len(made), length), np.float32) for name in bound.head.outputs}
    for n, (first, last, size) in best.items():
        found["start_logits"][n, first] = found["end_logits"][n, last] = size / 2
    return found


def asked(bound: Any, context: str, best: Mapping[int, tuple[int, int, float]]) -> dict[str, Any]:
    row = {"question": "q1 q2", "context": context}
    made = features(bound, [row])
    answers = bound.decode(logits(bound, made, best), collated(bound, made))
    found: dict[str, Any] = bound.combine(answers, row)
    return found


def test_the_best_window_answers_in_characters_of_the_original_text() -> None:
    context = "one  two\nthree four,  five six"
    found = asked(bind(answers=2), context, {0: (5, 6, 4.0), 1: (4, 5, 9.0)})
    assert (found["text"], found["start"], found["end"]) == ("four,  five", 15, 26)
    assert context[15:26] == found["text"]
    assert found["others"][0]["text"] == "four,", "half of the best window's span is more than all of the other's"
    assert 0 < found["others"][0]["score"] < found["score"] < 1


def test_no_answer_is_given_above_the_threshold() -> None:
    best = {0: (0, 0, 6.0), 1: (0, 0, 3.0), 2: (5, 5, 2.0)}
    assert asked(bind(no_answer=True), CONTEXT, best)["text"] == "eight", (
        "the window that is least sure of none counts: 0 is below 2"
    )
    best[2] = (0, 0, 5.0)
    found = asked(bind(no_answer=True), CONTEXT, best)
    assert (found["text"], found["start"], found["end"]) == ("", None, None)
    assert asked(bind(no_answer=True, null_threshold=2.9), CONTEXT, best)["text"] == ""
    assert asked(bind(no_answer=True, null_threshold=3.0), CONTEXT, best)["text"] != ""
    assert asked(bind(), CONTEXT, best)["text"] != "", "where questions have answers, one is given"


def test_long_answers_are_not_looked_for() -> None:
    best = {0: (4, 8, 9.0)}
    assert asked(bind(), CONTEXT, best)["text"] == "one two three four five"
    assert asked(bind(max_answer_length=4), CONTEXT, best)["text"] != "one two three four five"


def test_an_evaluation_is_the_same_however_it_is_cut() -> None:
    bound, model = bind(EVALUATION, no_answer=True), tiny()
    made = features(bound, ROWS)
    whole = bound.metrics(evaluated(bound, made, model))
    ranks = [made[::2], made[1::2]]
    parts = [evaluated(bound, [*own, filler(made[0])], model, longer=n) for n, own in enumerate(ranks)]
    cut = bound.metrics(merge_parts(parts))
    assert cut == pytest.approx(whole, rel=1e-5)
    assert whole["rows"] == len(ROWS)
    assert set(whole) == set(bound.metric_names)


@pytest.mark.parametrize("options", [{}, {"no_answer": True, "answers": 3}])
def test_it_conforms(options: dict[str, Any]) -> None:
    task = QuestionAnswering(QuestionAnsweringOptions(**options))
    if not options:
        report = check_task(task)
    else:
        schema = Schema({name: Column("text") for name in ("question", "context")} | {"answers": Column("object")})
        rows = [*ROWS, row("a", "a cat", question="w")]
        report = check_task(task, rows=rows, schema=schema)
    assert report.findings == []
    assert report.skipped == []


def test_models_from_elsewhere() -> None:
    task = QuestionAnswering(QuestionAnsweringOptions())
    assert task.state_of(BertConfig(architectures=["BertForQuestionAnswering"])) == {
        "no_answer": False,
        "overlap": None,
    }
    assert task.state_of(BertConfig(architectures=["BertForMaskedLM"])) is None
