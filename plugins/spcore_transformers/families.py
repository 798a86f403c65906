"""What is known of a family beyond what its configuration says. To add one: a line here, and its row in the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family whose modules and heads were verified against transformers.

    embed, layers, final: paths below the backbone. packs: whether texts that share a row are kept apart. pooler: module of the
    backbone that pools the first token, for the family's sequence head. offset: positions start at padding_idx + 1, not at 0.
    joins: module of a layer that adds its attention to what came in, called with both; None where that is not a module of its own.
    staged: whether it was verified that its backbone can be cut between layers, see `spcore_transformers.stages`.
    shares: whether an encoder-decoder takes its positions in parts, see `spcore_transformers.by_distance`; families that pack do.
    causal, encoder_layers, carried: as in `spcore.interfaces.model.Anatomy`; a family with encoder layers is verified under its
    vocabulary head.
    """

    embed: str
    layers: str
    final: str | None = None
    packs: bool = False
    pooler: str | None = None
    offset: bool = False
    joins: str | None = None
    causal: bool = False
    encoder_layers: str | None = None
    carried: tuple[str, ...] = ()
    staged: bool = False
    shares: bool = False

    def first_position(self, config: Any) -> int:
        """The position id of a text's first token."""
        return int(config.pad_token_id) + 1 if self.offset else 0

    def paths(self) -> tuple[str, ...]:
        """Every path that is given."""
        return tuple(path for path in (self.embed, self.layers, self.final, self.encoder_layers) if path)


_ROBERTA = Family("embeddings", "encoder.layer", packs=True, offset=True, joins="attention.output", staged=True)
_DEBERTA = Family("embeddings", "encoder.layer")
_LLAMA = Family("embed_tokens", "layers", "norm", packs=True, causal=True, staged=True)
_BART = Family("shared", "decoder.layers", causal=True, encoder_layers="encoder.layers")
FAMILIES: dict[str, Family] = {
    "bert": Family("embeddings", "encoder.layer", packs=True, pooler="pooler", joins="attention.output", staged=True),
    "distilbert": Family("embeddings", "transformer.layer", packs=True, staged=True),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": Family("embeddings", "encoder.layer", packs=True, joins="attention.output", staged=True),
    "modernbert": Family("embeddings", "layers", "final_norm", packs=True, staged=True),
    # DeBERTa's relative attention takes no mask of its own for each pair from outside, and a long row would cost its length
    # squared: its rows are padded.
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": Family("embed_tokens", "layers", "final_layernorm", packs=True, causal=True, staged=True),
    "gpt2": Family("wte", "h", "ln_f", packs=True, causal=True, staged=True),
    "gpt_neox": Family("embed_in", "layers", "final_layer_norm", packs=True, causal=True, staged=True),
    "bart": _BART,
    "marian": _BART,
    "t5": Family(
        "shared", "decoder.block", "decoder.final_layer_norm", causal=True, encoder_layers="encoder.block",
        carried=("position_bias", "encoder_decoder_position_bias"), shares=True,
    ),
}  # fmt: skip
