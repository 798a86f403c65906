"""What the strategy must know of a family of models: sizes, shape and the weight map. One file a family; a plugin adds another as a bridge
"megatron.FAMILY", whose value is a `Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from spcore.errors import RefusalError
from spcore.interfaces.bridge import Bridges
from spcore_megatron.rules import Rule

BRIDGE = "megatron"


@dataclass(frozen=True)
class Shape:
    """What a configuration says that Megatron's does not hold. vocabulary: entries, without padding. positions: rows of the table of
    positions, 0 for none; first_position: row of a text's first token. token_types: kinds of token, 0 for none. window: how many positions
    one sees, itself included; None: all. rope: float32 [width / 2], angles a position; None for families without.
    embedding_scale: factor of the embeddings.

    Of encoder-decoders: encoder_layers; buckets of distances, the last one of all from `furthest` on; output_scale: factor before the
    vocabulary."""

    vocabulary: int
    positions: int = 0
    first_position: int = 0
    token_types: int = 0
    window: int | None = None
    rope: torch.Tensor | None = None
    embedding_scale: float = 1.0
    encoder_layers: int = 0
    buckets: int = 0
    furthest: int = 0
    output_scale: float = 1.0


@dataclass(frozen=True)
class Family:
    """A family. settings: from a Hugging Face configuration the fields of `TransformerConfig`; shape: what else it says. Both raise
    RefusalError for what the layers cannot do.

    weights: Megatron's module below the model ("*" for a number) -> `Rule`, the names of the local layer spec; a function of the
    configuration where names depend on it. head: the same of the vocabulary head. causal, post_norm (norms after attention and MLP, not before), embedding_norm, transform (a dense layer with
    activation and norm before the vocabulary, and a bias there), encoder (T5's two stacks): how the parts are put together.
    """

    settings: Callable[[Any], dict[str, Any]]
    shape: Callable[[Any], Shape]
    weights: Mapping[str, Rule] | Callable[[Any], Mapping[str, Rule]]
    head: Mapping[str, Rule] = field(default_factory=dict)
    causal: bool = True
    post_norm: bool = False
    embedding_norm: bool = False
    transform: bool = False
    encoder: bool = False

    def rules(self, hf_config: Any) -> Mapping[str, Rule]:
        """Of all modules."""
        return {**(self.weights(hf_config) if callable(self.weights) else self.weights), **self.head}

    def ties(self, tied: Mapping[str, str]) -> bool:
        """Whether of aliases (`Anatomy.tied`) one is the matrix that makes logits, the embeddings' then."""
        return f"{self.head['output_layer'].sources[0].removeprefix('^')}.weight" in tied

    def config(self, hf_config: Any, **settings: Any) -> Any:
        """Megatron's `TransformerConfig`. settings: what the strategy adds, sizes of the axes say. Parameters are left without values."""
        from megatron.core.transformer.transformer_config import TransformerConfig

        return TransformerConfig(**{**_COMMON, **self.settings(hf_config), **settings})

    def build(
        self,
        config: Any,
        hf_config: Any,
        *,
        vocabulary: bool,
        tied: bool,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
        packs: bool = False,
    ) -> Any:
        """One stage: a `Body`, or an `EncoderDecoder`. vocabulary: whether it ends in logits over the vocabulary, else in hidden states. tied: whether these are made
        with the table of embeddings. packs: whether batches have segment_ids. Needs Megatron's process groups."""
        from spcore_megatron.body import Body
        from spcore_megatron.encoder_decoder import EncoderDecoder

        if self.encoder:
            return EncoderDecoder(config, self.shape(hf_config), tied=tied)
        return Body(
            config, self, self.shape(hf_config), vocabulary=vocabulary, tied=tied, packs=packs, pre_process=pre_process,
            post_process=post_process, vp_stage=vp_stage,
        )  # fmt: skip


_COMMON = {
    "perform_initialization": False, "bias_activation_fusion": False, "masked_softmax_fusion": False,
    "gradient_accumulation_fusion": False, "attention_softmax_in_fp32": True, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    "bias_dropout_fusion": False,
}  # fmt: skip
"""What no family says; its own settings and the strategy's come after."""


def family_of(model_type: str, bridges: Bridges) -> Family:
    """The family of a Hugging Face `model_type`. Raises RefusalError that lists those that have a weight map."""
    found = bridges.find(f"{BRIDGE}.{model_type}")
    if found is None:
        known = ", ".join(name.partition(".")[2] for name in bridges.names(f"{BRIDGE}."))
        raise RefusalError(
            f"model family {model_type!r}: strategy 'megatron' has no weight map for it; it has for: {known}",
            hint=f"Use strategy=parallel or fsdp, or a plugin that adds bridge '{BRIDGE}.{model_type}'",
        )
    assert isinstance(found, Family), (
        f"bridge {BRIDGE}.{model_type}: a Family is wanted, it is a {type(found).__name__}"
    )
    return found


def refuse(model_type: str, wrong: Sequence[tuple[bool, str]]) -> None:
    """Raises RefusalError for the first that is wrong: (whether, what of the configuration)."""
    for is_so, what in wrong:
        if is_so:
            raise RefusalError(
                f"model family {model_type!r}: config.json says {what}, which strategy 'megatron' does not do",
                hint="Use strategy=parallel or fsdp",
            )
