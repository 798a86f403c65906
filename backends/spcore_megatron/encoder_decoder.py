"""T5: an encoder and a decoder whose attention is biased by distance, on one stage."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import tensor_parallel
from megatron.core.enums import ModelType
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.relative_pos_embedding import RelativePositionEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.transformer_block import TransformerBlock

from spcore_megatron import layers
from spcore_megatron.body import padded

if TYPE_CHECKING:
    from spcore_megatron.families import Shape


class EncoderDecoder(LanguageModule):  # type: ignore[misc]
    """forward(inputs) -> logits [B, D, V / tp], of which columns past the vocabulary are padding that `VocabularyOps` leaves out.

    inputs: input_ids [B, S], attention_mask [B, S] or nothing, decoder_input_ids [B, D], padded at the end. Source: Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683.
    """

    def __init__(self, config: Any, shape: Shape, *, tied: bool) -> None:
        super().__init__(config=config)
        self.shape, self.share_embeddings_and_output_weights = shape, tied
        self.pre_process, self.post_process, self.vp_stage, self.vp_size = True, True, None, None
        self.model_type = ModelType.encoder_or_decoder
        size = padded(shape.vocabulary, config.tensor_model_parallel_size)
        self.embedding = LanguageModelEmbedding(config, size, 0, "none")
        self.embedding.word_embeddings.weight.data.zero_()  # rows past the vocabulary stay so
        below = copy.copy(config)
        below.num_layers = shape.encoder_layers
        self.encoder = self._stack(below, causal=False)
        self.decoder = self._stack(config, causal=True)
        self.encoder_distances, self.decoder_distances = (self._distances(both) for both in (True, False))
        self.output_layer = tensor_parallel.ColumnParallelLinear(
            config.hidden_size,
            size,
            config=config,
            init_method=config.init_method,
            bias=False,
            skip_weight_param_allocation=tied,
        )
        if not tied:
            self.output_layer.weight.data.zero_()
        self.setup_embeddings_and_output_layer()

    def _stack(self, config: Any, *, causal: bool) -> TransformerBlock:
        spec = layers.block(config, causal=causal, post_norm=False, masks=True, vp_stage=None, cross=causal)
        return TransformerBlock(config, spec)

    def _distances(self, both: bool) -> RelativePositionEmbedding:
        table = RelativePositionEmbedding(
            both, lambda _: None, self.config.num_attention_heads, self.shape.buckets, self.shape.furthest
        )
        return table.to(self.config.params_dtype)

    def set_input_tensor(self, tensor: Any) -> None:
        """No stage is before this one; called by Megatron's schedules."""

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See the class."""
        ids, given = inputs["input_ids"], inputs["decoder_input_ids"]
        hidden = None if "attention_mask" not in inputs else (inputs["attention_mask"] == 0)[:, None, None, :]
        memory = self.encoder(
            self.embedding(ids, None),
            attention_mask=hidden,
            attention_bias=self._biases(self.encoder_distances, ids.shape[1]),
        )
        found = self.decoder(
            self.embedding(given, None), attention_mask=None, context=memory, context_mask=hidden,
            attention_bias=self._biases(self.decoder_distances, given.shape[1]),
        )  # fmt: skip
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        logits, _ = self.output_layer(found * self.shape.output_scale, weight=weight)
        return logits.transpose(0, 1).contiguous()

    def _biases(self, table: RelativePositionEmbedding, length: int) -> torch.Tensor:
        """[1, heads / tp, length, length]: each rank's heads; the table is whole on all, and so are its gradients."""
        every = table(length, length).permute(0, 2, 3, 1)
        return tensor_parallel.scatter_to_tensor_model_parallel_region(every).permute(0, 3, 1, 2)
