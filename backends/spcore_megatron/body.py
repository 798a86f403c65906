"""One stage of a model of any family that is one stack of layers: embeddings, layers, and the logits or hidden states they end in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state as ps
from megatron.core import tensor_parallel
from megatron.core.enums import ModelType
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.transformer_block import TransformerBlock

from spcore_megatron import layers
from spcore_megatron.attention import Norm, held, masked

if TYPE_CHECKING:
    from spcore_megatron.families import Family, Shape


def padded(vocabulary: int, ranks: int) -> int:
    """A vocabulary's size as tensor parallelism needs it: a multiple of the ranks."""
    return -(-vocabulary // ranks) * ranks


class Body(LanguageModule):  # type: ignore[misc]
    """forward(inputs) -> hidden states [T, B, H] on all stages but the last (what `set_input_tensor` of the next is given); there, with
    the vocabulary head, logits [B, T, V / tp], of which columns past the vocabulary are padding that `VocabularyOps` leaves out; without
    it hidden states [B, T, H], whole on every rank of the tensor group and before the final norm, which is part of Hugging Face's head.

    Under context parallelism T is this rank's part of the positions, `held`; inputs are whole. inputs: as in `Batch.inputs`; of packs
    positions restart and no attention crosses a border.
    """

    def __init__(
        self,
        config: Any,
        family: Family,
        shape: Shape,
        *,
        vocabulary: bool,
        tied: bool,
        packs: bool,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
    ) -> None:
        super().__init__(config=config)
        self.family, self.shape = family, shape
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.vp_size = config.virtual_pipeline_model_parallel_size
        self.model_type, self.vocabulary = ModelType.encoder_or_decoder, vocabulary
        self.share_embeddings_and_output_weights = vocabulary and tied
        size = padded(shape.vocabulary, config.tensor_model_parallel_size)
        if pre_process:
            self._embed(size)
        self.register_buffer("frequencies", None if shape.rope is None else shape.rope.clone(), persistent=False)
        kind = {"causal": family.causal, "post_norm": family.post_norm, "masks": packs or shape.window is not None}
        self.attends = layers.attends(config, **kind)
        spec = layers.block(config, **kind, vp_stage=vp_stage)
        self.decoder = TransformerBlock(
            config,
            spec,
            post_layer_norm=vocabulary,
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )
        if post_process and vocabulary:
            self._project(size)
        if vocabulary and (pre_process or post_process):
            self.setup_embeddings_and_output_layer()

    def _embed(self, size: int) -> None:
        config, shape = self.config, self.shape
        self.embedding = LanguageModelEmbedding(
            config, size, shape.positions, "learned_absolute" if shape.positions else "none", shape.token_types,
            scatter_to_sequence_parallel=not self.family.embedding_norm,
        )  # fmt: skip
        self.embedding.word_embeddings.weight.data.zero_()  # rows past the vocabulary stay so
        if self.family.embedding_norm:
            self.embedding_norm = torch.nn.LayerNorm(
                config.hidden_size, config.layernorm_epsilon, dtype=config.params_dtype
            )
            self.embedding.embedding_dropout.p = 0.0  # it follows the norm

    def _project(self, size: int) -> None:
        config = self.config
        if self.family.transform:
            self.transform = torch.nn.Linear(config.hidden_size, config.hidden_size, dtype=config.params_dtype)
            for parameter in self.transform.parameters():
                parameter.sequence_parallel = config.sequence_parallel
            self.transform_norm = Norm(config, config.hidden_size, config.layernorm_epsilon)
        own = not (self.share_embeddings_and_output_weights and self.pre_process)
        self.output_layer = tensor_parallel.ColumnParallelLinear(
            config.hidden_size, size, config=config, init_method=config.init_method, bias=self.family.transform,
            skip_weight_param_allocation=not own,
        )  # fmt: skip
        for parameter in self.output_layer.parameters():
            parameter.data.zero_()

    def set_input_tensor(self, tensor: Any) -> None:
        """What the stage before gave, [T, B, H]; called by Megatron's schedules."""
        self.decoder.set_input_tensor(tensor[0] if isinstance(tensor, list) else tensor)

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See the class."""
        ids = inputs["input_ids"]
        ranks, rank = ps.get_context_parallel_world_size(), ps.get_context_parallel_rank()
        mask = None
        if self.attends or not self.family.causal:
            mask = masked(inputs, causal=self.family.causal, window=self.shape.window, rank=rank, ranks=ranks)
        mine = held(ids.shape[1], rank, ranks).to(ids.device)
        places = inputs.get("position_ids")
        places = mine[None] if places is None else places[:, mine]
        hidden = self._embedded(inputs, mine, places) if self.pre_process else None
        hidden = self.decoder(hidden, attention_mask=mask, rotary_pos_emb=self._angles(places))
        if not self.post_process:
            return hidden
        if not self.vocabulary:
            if self.config.sequence_parallel:
                hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
            return hidden.transpose(0, 1).contiguous()
        if self.family.transform:
            hidden = self.transform_norm(self.config.activation_func(self.transform(hidden)))
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        logits, _ = self.output_layer(hidden, weight=weight)
        return logits.transpose(0, 1).contiguous()

    def _embedded(self, inputs: Mapping[str, torch.Tensor], mine: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """[T, B, H], under sequence parallelism this rank's part of T."""
        ids, types = inputs["input_ids"][:, mine], None
        if self.shape.token_types:
            types = inputs["token_type_ids"][:, mine] if "token_type_ids" in inputs else torch.zeros_like(ids)
        found = self.embedding(ids, places + self.shape.first_position, types)
        if self.shape.embedding_scale != 1.0:
            found = found * torch.tensor(self.shape.embedding_scale, dtype=found.dtype)
        if not self.family.embedding_norm:
            return found
        found = torch.nn.functional.dropout(self.embedding_norm(found), self.config.hidden_dropout, self.training)
        return tensor_parallel.scatter_to_sequence_parallel_region(found) if self.config.sequence_parallel else found

    def _angles(self, places: torch.Tensor) -> torch.Tensor | None:
        """[T, B or 1, 1, width]: by which queries and keys are turned; positions restart in every text of a pack."""
        if self.frequencies is None:
            return None
        angles = places.t().float()[..., None] * self.frequencies.float()
        return torch.cat([angles, angles], -1)[:, :, None]
