"""What is known of a family beyond what its configuration says. To add one: a line here, and its row in the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family whose modules and heads were verified against transformers.

    base: attribute of the backbone in the classes with a head. embed, layers, final: paths below it. packs: whether texts that
    share a row are kept apart. pooler: module of the backbone that pools the first token, for the family's sequence head.
    offset: positions start at padding_idx + 1, not at 0. joins: module of a layer that adds its attention to what came in, called
    with both; None where that is not a module of its own.
    """

    base: str
    embed: str
    layers: str
    final: str | None = None
    packs: bool = False
    pooler: str | None = None
    offset: bool = False
    joins: str | None = None

    def first_position(self, config: Any) -> int:
        """The position id of a text's first token."""
        return int(config.pad_token_id) + 1 if self.offset else 0


_ROBERTA = Family("roberta", "embeddings", "encoder.layer", packs=True, offset=True, joins="attention.output")
_DEBERTA = Family("deberta", "embeddings", "encoder.layer")
FAMILIES: dict[str, Family] = {
    "bert": Family("bert", "embeddings", "encoder.layer", packs=True, pooler="pooler", joins="attention.output"),
    "distilbert": Family("distilbert", "embeddings", "transformer.layer", packs=True),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": Family("electra", "embeddings", "encoder.layer", packs=True, joins="attention.output"),
    "modernbert": Family("model", "embeddings", "layers", "final_norm", packs=True),
    # DeBERTa's relative attention takes no mask of its own for each pair from outside, and a long row would cost its length
    # squared: its rows are padded.
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
}
