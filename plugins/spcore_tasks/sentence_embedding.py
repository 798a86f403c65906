"""Task `sentence-embedding`: vectors whose nearness is that of meaning, learnt from pairs that belong together.

Of all second texts of a global batch, on whatever rank they are, a text's own is to be the nearest (InfoNCE: van den Oord et al. 2018;
in-batch negatives: Henderson et al. 2017; what sentence-transformers calls MultipleNegativesRankingLoss). Texts that look like it and are
not (hard negatives) are further candidates for all. Sentences with a score of similarity are evaluated by rank correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.rows import is_missing
from spcore.text import TextTask, labelled, places, stacked, text_of
from spcore_tasks import figures
from spcore_tasks.labels import missing

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import SentenceEmbeddingOptions
    from spcore_tasks.pooling import Pooling

TERM = "contrast"
ANCHOR = Role(
    "text", guesses=("anchor", "query", "question", "sentence1", "premise", "text1", "text_a", "sentence", "title", "文本", "句子"),
)  # fmt: skip
POSITIVE = Role(
    "positive", target=True,
    guesses=("pos", "text_pair", "answer", "sentence2", "hypothesis", "text2", "text_b", "passage", "document", "文本2", "句子2"),
)  # fmt: skip
NEGATIVE = Role(
    "negative",
    kind="any",
    required=False,
    target=True,
    guesses=("negatives", "neg", "hard_negative"),
    series=("negative",),
)
_ROWS = 1024
"""Texts whose nearness to all candidates is looked at together."""
SCORE = Role(
    "score", kind="number", required=False, target=True, guesses=("similarity", "similarity_score", "relatedness_score")
)


class SentenceEmbedding(Task):
    """Kind `task`, `sentence-embedding`."""

    roles = (ANCHOR, POSITIVE, NEGATIVE, SCORE)
    portable = True

    def __init__(self, options: SentenceEmbeddingOptions) -> None:
        self.options = options

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """See `Task.suits`: pairs of texts may be of any other task that reads two."""
        return min(0.3, super().suits(schema, columns))

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Of the data nothing is learnt but whether it has scores. Raises RefusalError for packs."""
        if limits.pack is not None:
            raise RefusalError(f"data.pack {limits.pack}: a row has several sequences; leave data.pack out")
        if isinstance(schema_or_state, dict):
            return BoundSentenceEmbedding(processor, limits, schema_or_state)
        o, scored = self.options, "score" in schema_or_state.columns
        if o.loss == "cosent" and not scored:
            raise DataError("task.loss cosent: the data has no score", hint="Say which: data.columns.score=COLUMN")
        usual = 1.0 if o.similarity == "dot" else 0.05
        state = {
            "hidden": 0 if config is None else _width(config), "pooling": o.pooling, "similarity": o.similarity,
            "temperature": usual if o.temperature is None else o.temperature,
            "loss": ("cosent" if scored else "contrastive") if o.loss == "auto" else o.loss, "symmetric": o.symmetric,
        }  # fmt: skip
        if o.symmetric and state["loss"] == "cosent":
            raise RefusalError("task.symmetric: goes with loss contrastive, and this is cosent; leave it out")
        return BoundSentenceEmbedding(processor, limits, state)


class BoundSentenceEmbedding(TextTask):
    """Feature arrays: tokens [sequences, length]: the text, its positive, negatives; for predictions the text alone; "score", where the row
    has one. Targets: "score" [S] float32, of each sequence's row; "scored", 1 where it has one."""

    terms = (TERM,)

    def __init__(self, processor: Processor, limits: Limits, state: dict[str, Any]) -> None:
        super().__init__(processor, limits)
        self._state = state
        self.temperature: float = state["temperature"]
        self.ranks = state["loss"] == "cosent"
        build = partial(_pooled, pooling=state["pooling"], unit=state["similarity"] == "cosine")
        self.head = Head("custom", state["hidden"], {"embedding": ("sequence", "hidden")}, build=build)

    # -- rows to batches -------------------------------------------------------------------------------------------

    def encode(self, row: Row) -> tuple[dict[str, np.ndarray], int]:
        """See `TextTask.encode`."""
        texts = [text_of(row, "text")]
        if "positive" in row:
            texts += [text_of(row, "positive"), *_negatives(row)]
        return self.encode_texts([(text, None) for text in texts])

    def label(self, row: Row) -> dict[str, Any]:
        """score: float32."""
        if "score" not in row:
            return {}
        if missing(row["score"]):
            raise DataError("no score")
        try:
            number = float(row["score"])
        except (TypeError, ValueError):
            raise DataError("the score is not a number") from None
        if not math.isfinite(number):
            raise DataError("the score is not a finite number")
        return {"score": np.float32(number)}

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        return {"score": stacked(features, "score", 0.0), "scored": labelled(features, "score")}

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of pairs."""
        return {TERM: float(sum(len(f.arrays["input_ids"]) > 1 for f in features if not f.filler))}

    # -- learning --------------------------------------------------------------------------------------------------

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Nothing: all of it needs the whole batch."""
        return []

    def representation(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> torch.Tensor:
        """[S, H + 1]: the vector, and the row's score behind it."""
        import torch

        return torch.cat([ops.full(outputs, "embedding").float(), batch.targets["score"][:, None].float()], -1)

    def whole_loss(self, representations: torch.Tensor, feature_ids: np.ndarray) -> list[LossTerm]:
        """contrastive: cross-entropy of a text's own positive among all positives and negatives, summed over pairs. cosent: the logarithm of
        1 + the sum over all two pairs in the wrong order of exp(difference / temperature), times the number of pairs (Su 2022)."""
        import torch

        vectors, starts = representations[:, :-1], np.unique(feature_ids, return_index=True)[1]
        left, right = vectors[starts], vectors[starts + 1]
        if self.ranks:
            near, score = (left * right).sum(-1) / self.temperature, representations[starts, -1]
            apart = near[:, None] - near[None, :]
            wrong = apart.masked_fill(score[:, None] >= score[None, :], -torch.inf).flatten()
            return [LossTerm(TERM, torch.cat([wrong, wrong.new_zeros(1)]).logsumexp(0) * len(starts))]
        others = np.setdiff1d(np.arange(len(vectors)), np.concatenate([starts, starts + 1]))
        logits = left @ torch.cat([right, vectors[others]]).T / self.temperature
        total = -logits.log_softmax(-1).diagonal().sum()
        if self._state["symmetric"]:
            total = (total - (right @ left.T / self.temperature).log_softmax(-1).diagonal().sum()) / 2
        return [LossTerm(TERM, total)]

    # -- evaluation and answers ------------------------------------------------------------------------------------

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows: vectors, [sequences, H]; score, None where there is none."""
        import torch

        found = ops.full(outputs, "embedding").float().cpu()
        scores, known, rows = batch.targets["score"].tolist(), batch.targets["scored"].tolist(), []
        for feature, (row, at) in places(batch).items():
            score = scores[at[0]] if known[at[0]] else None
            rows.append(
                {"feature_id": feature, "row_id": row, "vectors": found[torch.tensor(at)].tolist(), "score": score}
            )
        return EvalPart({}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """Of pairs with scores: spearman and pearson of similarity and score. Of pairs that belong together: accuracy, the share whose own
        positive is the nearest of all positives and negatives of the evaluation, and mrr, the mean of 1 / its rank. loss: as if all rows were one
        batch. rows: pairs."""
        import torch

        rows = [row for row in part.rows if len(row["vectors"]) > 1]
        if not rows:
            return {"loss": 0.0, "rows": 0.0}
        counts = [len(row["vectors"]) for row in rows]
        vectors = torch.tensor([vector for row in rows for vector in row["vectors"]])
        starts = np.cumsum([0, *counts[:-1]])
        if all(row["score"] is not None for row in rows):
            near = (vectors[starts] * vectors[starts + 1]).sum(-1).tolist()
            correlations = figures.regression([row["score"] for row in rows], near)
            found = {name: correlations[name] for name in ("spearman", "pearson")}
        else:
            found = retrieval(vectors, starts)
        return {**found, "loss": self._whole(vectors, starts, rows), "rows": float(len(rows))}

    def _whole(self, vectors: torch.Tensor, starts: np.ndarray, rows: Sequence[dict[str, Any]]) -> float:
        import torch

        score = torch.tensor([row["score"] or 0.0 for row in rows for _ in row["vectors"]])
        ids = np.repeat(np.arange(len(rows)), [len(row["vectors"]) for row in rows])
        (term,) = self.whole_loss(torch.cat([vectors, score[:, None]], -1), ids)
        return float(term.sum) / len(rows)

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """embedding: [H]; of a pair also similarity."""
        answers = []
        for row, at in places(batch).values():
            found = outputs["embedding"][at].astype(np.float64)
            near = {"similarity": float(found[0] @ found[1])} if len(at) > 1 else {}
            answers.append({"row_id": row, "embedding": found[0].tolist(), **near})
        return answers

    def state(self) -> dict[str, Any]:
        """hidden, pooling, similarity, temperature, loss, symmetric."""
        return self._state


def retrieval(vectors: torch.Tensor, starts: np.ndarray) -> dict[str, float]:
    """accuracy and mrr, see `BoundSentenceEmbedding.metrics`. vectors: [N, H]; starts: where each pair's two begin, negatives behind them."""
    import torch

    candidates = np.setdiff1d(np.arange(len(vectors)), starts)
    own = torch.from_numpy(np.searchsorted(candidates, starts + 1))
    ranks = []
    for at in range(0, len(starts), _ROWS):
        near = vectors[starts[at : at + _ROWS]] @ vectors[candidates].T
        mine = near.gather(1, own[at : at + _ROWS, None])
        ranks.append(1 + (near > mine).sum(1))
    rank = torch.cat(ranks).double()
    return {"accuracy": float((rank == 1).double().mean()), "mrr": float((1 / rank).mean())}


def _negatives(row: Row) -> list[str]:
    given = row.get("negative")
    if not isinstance(given, list):
        given = [] if is_missing(given) else [given]
    return [text_of({"negative": text}, "negative") for text in given]


def _width(config: Any) -> int:
    """Of the hidden states, under the names that families have for it."""
    found = next(
        (n for name in ("hidden_size", "d_model", "dim", "n_embd") if (n := getattr(config, name, None))), None
    )
    if found is None:
        raise RefusalError(
            f"task sentence-embedding: the configuration of {type(config).__name__} tells no hidden_size"
        )
    return int(found)


def _pooled(config: Any, pooling: Pooling, unit: bool) -> Any:
    from spcore_tasks.pooling import Pooled

    return Pooled(pooling, unit=unit)
