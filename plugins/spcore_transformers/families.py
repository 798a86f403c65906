"""What is known of a family beyond what its configuration says. To add one: a line here, and its row in the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """base: attribute of the backbone in the class with a head. embed, layers, final: paths below it. packs: whether texts that
    share a row are kept apart (verified). pooler: module of the backbone that pools the first token, for the family's sequence
    head. positions: what is added to positions that count from 0, by configuration. causal: attends to earlier tokens only."""

    base: str
    embed: str
    layers: str
    final: str | None = None
    packs: bool = False
    pooler: str | None = None
    offset: bool = False
    positions: bool = True
    causal: bool = False

    def first_position(self, config: Any) -> int:
        """The position id of a text's first token."""
        return int(config.pad_token_id) + 1 if self.offset else 0


FAMILIES: dict[str, Family] = {
    "bert": Family("bert", "embeddings", "encoder.layer", packs=True, pooler="pooler"),
    "distilbert": Family("distilbert", "embeddings", "transformer.layer", packs=True),
    "roberta": Family("roberta", "embeddings", "encoder.layer", packs=True, offset=True),
    "xlm-roberta": Family("roberta", "embeddings", "encoder.layer", packs=True, offset=True),
    "electra": Family("electra", "embeddings", "encoder.layer", packs=True),
    "modernbert": Family("model", "embeddings", "layers", "final_norm", packs=True),
    # DeBERTa's attention is its own (relative positions, no attention interface): its rows are padded.
    "deberta-v2": Family("deberta", "embeddings", "encoder.layer"),
    "deberta": Family("deberta", "embeddings", "encoder.layer"),
}
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout",
    "seq_classif_dropout", "qa_dropout", "activation_dropout", "embd_pdrop", "attn_pdrop", "resid_pdrop", "embedding_dropout",
    "mlp_dropout", "cls_dropout", "pooler_dropout", "summary_last_dropout", "dropout_rate",
)  # fmt: skip
