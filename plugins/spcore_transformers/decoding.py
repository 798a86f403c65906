"""Text token by token from transformers' modules: `Decodes` over slots of a cache.

A family is in `DECODED` once its rows were seen to be, token for token, those of `transformers.generate`, alone and in a batch whose
rows join and leave (tests/generation/test_families.py). Others are refused by name: a family whose positions or masks are made in a way of
its own would give wrong text without an error.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from spcore.errors import RefusalError
from spcore.interfaces.runtime import Crops, Decodes
from spcore_transformers.slots import CrossLayer, Pass, SlotLayer, reserve

DECODED = frozenset({
    "bart", "bloom", "codegen", "cohere", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "helium", "hunyuan_v1_dense", "llama", "marian", "mbart", "mistral", "mixtral",
    "mpt", "mt5", "nemotron", "olmo", "olmo2", "olmo3", "opt", "pegasus", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "seed_oss", "smollm3", "stablelm", "starcoder2", "t5", "umt5", "xglm",
})  # fmt: skip
"""Families that decode as transformers does."""
_BY_LENGTH = ("dynamic", "longrope")
"""Rotary positions whose frequencies change with the longest text of a batch: rows would change each other."""


def check(config: Any, name: str) -> None:
    """Raise RefusalError for what is not known to decode as transformers does. name: of the model."""
    family = config.model_type
    if family not in DECODED:
        raise RefusalError(
            f"model {name!r}: generating is not verified for family {family!r}, only for {', '.join(sorted(DECODED))}"
        )
    found = next((kind for kind in rotary_kinds(config) if kind in _BY_LENGTH), None)
    if found is not None:
        raise RefusalError(
            f"model {name!r}: its rotary positions are {found!r}, in which rows of a batch change each other; generating is not verified for them"
        )


def rotary_kinds(config: Any) -> set[str]:
    """Kinds of rotary positions of a decoder's layers; empty where it has none."""
    stated = getattr(config, "rope_parameters", None) or {}
    each = [part for part in stated.values() if isinstance(part, dict)] or [stated]
    return {part.get("rope_type", "default") for part in each if part}


class SlotDecoder(Decodes, Crops):
    """`Decodes` and `Crops` by a family's own code. whole: an instance of the family's class with its vocabulary head, in eval mode; it is
    changed in nothing. capacity: see `Decodes`. Not for two threads at once."""

    def __init__(self, whole: Any, capacity: tuple[int, int, int]) -> None:
        self.capacity = slots, length, encoder_length = capacity
        self.config = whole.config
        self.device = next(whole.parameters()).device
        # Not by the output layer's weight, of which a rank may have some rows alone.
        self.vocabulary = int(whole.get_output_embeddings().out_features)
        self.lengths, self.widths = [0] * slots, [0] * slots
        self.layers = [SlotLayer(slots, length, window) for window in windows(self.config)]
        self.cross = [CrossLayer(slots, encoder_length) for _ in self.layers] if encoder_length else []
        self._encoded: list[object] = [None] * slots
        self._cache: Any = Cache(layers=self.layers)
        if self.cross:
            self._cache = EncoderDecoderCache(self._cache, Cache(layers=self.cross))
        self._places = _Places()
        self.whole = _placed(whole, self._places) if self.cross else whole
        self._takes = frozenset(inspect.signature(whole.forward).parameters)

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.prefill`. Rows whose chunks are of one length go together."""
        found = np.zeros((len(rows), self.vocabulary), np.float32)
        with torch.inference_mode():
            sources = self._encode(rows, slots) if self.cross else {}
            ids = [row["decoder_input_ids" if self.cross else "input_ids"] for row in rows]
            groups: dict[tuple[int, bool], list[int]] = {}
            for n, chunk in enumerate(ids):
                groups.setdefault((len(chunk), n in sources), []).append(n)
            for (_, new), group in groups.items():
                fed = torch.tensor(np.stack([ids[n] for n in group]), device=self.device)
                hidden = nn.utils.rnn.pad_sequence([sources[n] for n in group], batch_first=True) if new else None
                found[group] = self._forward(fed, [slots[n] for n in group], hidden)
        return found

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.decode`."""
        if not slots:
            return np.zeros((0, self.vocabulary), np.float32)
        with torch.inference_mode():
            return self._forward(torch.tensor(ids, device=self.device)[:, None], slots, None)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """See `Decodes.copy`."""
        pairs = [(s, t) for s, t in zip(sources, targets, strict=True) if s != t]
        if not pairs:
            return
        with torch.inference_mode():
            self._copied(self.layers, pairs, self.lengths)
            # Beams of one request share what the encoder gave.
            other = [(s, t) for s, t in pairs if self._encoded[s] is not self._encoded[t]]
            self._copied([layer.store for layer in self.cross], other, self.widths)
        held: tuple[list[Any], ...] = (self.lengths, self.widths, self._encoded)
        for facts in held:
            for target, value in [(t, facts[s]) for s, t in pairs]:
                facts[target] = value

    def _copied(self, layers: Sequence[SlotLayer], pairs: Sequence[tuple[int, int]], lengths: Sequence[int]) -> None:
        if not pairs or not layers:
            return
        sources, targets = torch.tensor(pairs, device=self.device).unbind(1)
        columns = max(lengths[s] for s, _ in pairs)
        reserve(layers, max(t for _, t in pairs) + 1, columns)
        for layer in layers:
            layer.copy(sources, targets, columns)

    def crop(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """See `Crops.crop`."""
        with torch.inference_mode():
            for slot, length in zip(slots, lengths, strict=True):
                for layer in self.layers:
                    layer.clear(slot, self.lengths[slot], length)
                self.lengths[slot] = length

    def free(self, slots: Sequence[int]) -> None:
        """See `Decodes.free`."""
        with torch.inference_mode():
            for slot in slots:
                for layer in self.layers:
                    layer.clear(slot, self.lengths[slot])
                for cross in self.cross:
                    cross.store.clear(slot, self.widths[slot])
                self.lengths[slot] = self.widths[slot] = 0
                self._encoded[slot] = None

    def _encode(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> dict[int, torch.Tensor]:
        """Encoder outputs [width, hidden] of the rows that begin, by place in `rows`."""
        begun = [n for n, row in enumerate(rows) if "input_ids" in row]
        if not begun:
            return {}
        given = [torch.from_numpy(np.ascontiguousarray(rows[n]["input_ids"])) for n in begun]
        ids = nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=self.config.pad_token_id or 0)
        for n, source in zip(begun, given, strict=True):
            self.widths[slots[n]], self._encoded[slots[n]] = len(source), object()
        mask = _reaching([len(source) for source in given], self.device)
        hidden = self.whole.get_encoder()(input_ids=ids.to(self.device), attention_mask=mask).last_hidden_state
        return {n: hidden[k, : len(given[k])] for k, n in enumerate(begun)}

    def _forward(self, ids: torch.Tensor, slots: Sequence[int], hidden: torch.Tensor | None) -> np.ndarray:
        """Feed ids [B, new] to slots; logits [B, vocabulary] after the last. hidden: of the encoder, where the slots' texts begin."""
        assert not self.whole.training, "a module that decodes is in eval mode"
        now = Pass(slots, [self.lengths[slot] for slot in slots], ids.shape[1], self.device)
        reserve(self.layers, max(slots) + 1, now.total)
        every: tuple[SlotLayer | CrossLayer, ...] = (*self.layers, *self.cross)
        for layer in every:
            layer.now = now
        mask = None if now.mask is None else now.mask.long()
        if self.cross:
            logits = self._after_encoder(ids, now, mask, hidden)
        else:
            given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "cache": self._cache, "use_cache": True}
            if "position_ids" in self._takes:
                given["position_ids"] = now.write
            if "logits_to_keep" in self._takes:
                given["logits_to_keep"] = 1
            logits = self.whole(**given).logits
        for slot in slots:
            self.lengths[slot] += ids.shape[1]
        found: np.ndarray = logits[:, -1].float().cpu().numpy()
        return found

    def _after_encoder(
        self, ids: torch.Tensor, now: Pass, mask: torch.Tensor | None, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        widths = [self.widths[slot] for slot in now.slots]
        for layer in self.cross:
            layer.width = max(widths)
        self._cache.is_updated = dict.fromkeys(range(len(self.cross)), hidden is None)
        if hidden is None:  # the keys and values of what the encoder gave are kept; of itself, its shape alone is read
            hidden = torch.zeros((), device=self.device).expand(len(widths), max(widths), self.config.hidden_size)
        self._places.now = now.write
        logits: torch.Tensor = self.whole(
            decoder_input_ids=ids, decoder_attention_mask=mask, encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=None if len(set(widths)) == 1 else _reaching(widths, self.device), cache=self._cache, use_cache=True,
        ).logits  # fmt: skip
        return logits


def windows(config: Any) -> list[int | None]:
    """Of each layer of a decoder, the tokens that a query sees, itself included; None: all."""
    layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    layers, window = int(layers or config.num_hidden_layers), getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    return [window if kind == "sliding_attention" else None for kind in kinds[:layers]]


def _reaching(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """int64 [rows, longest]: 1 where a row is, 0 where it is padded."""
    return (torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]).long()


class _Places:
    """Positions [B, new] of the tokens that are being fed."""

    now: torch.Tensor


class _Placed(nn.Module):  # type: ignore[misc]
    """Learnt or fixed positions of a decoder that counts them for the batch as a whole (BART, Marian): here of each row."""

    def __init__(self, table: Any, places: _Places) -> None:
        super().__init__()
        self.table, self.places = table, places
        self.offset = int(getattr(table, "offset", 0))

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """[B, new, hidden]."""
        return F.embedding(self.places.now + self.offset, self.table.weight)


def _placed(whole: Any, places: _Places) -> Any:
    """The model, with such positions by row; what is changed is a copy, which shares all tensors."""
    found = [path for path, _ in whole.get_decoder().named_modules() if path == "embed_positions"]
    if not found:
        return whole
    base = next(path for path, module in whole.named_modules() if module is whole.get_decoder())
    whole = at = _twin(whole)
    for name in base.split("."):
        at._modules[name] = _twin(at._modules[name])
        at = at._modules[name]
    at._modules["embed_positions"] = _Placed(at.embed_positions, places)
    return whole


def _twin(module: Any) -> Any:
    """A module of the same tensors and children, whose children can be replaced."""
    made = copy.copy(module)
    made.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return made
