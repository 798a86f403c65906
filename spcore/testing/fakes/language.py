"""A language model of a few thousand parameters: embedding, mixing layers, and every kind of head."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spcore.errors import RefusalError, SourceError
from spcore.interfaces.bridge import Cut, TensorPlan
from spcore.interfaces.model import Anatomy, Head, LanguageModel, Model, Positions
from spcore.testing.fakes.processor import FakeProcessor
from spcore.testing.fakes.steps import HistoryDecoder
from spcore.testing.options import FakeModelOptions

TENSOR_PLAN = TensorPlan({"layers.*.mix": Cut("gathered")})
"""Bridge "tensor-parallel.fake"."""
_FIELDS = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings", "causal")


@dataclass(frozen=True)
class FakeConfig:
    """The configuration, under transformers' names."""

    hidden_size: int = 16
    num_hidden_layers: int = 2
    vocab_size: int = 64
    max_position_embeddings: int = 64
    causal: bool = False
    model_type: str = "fake"


class FakeModel(Model):
    """Kind `model`. Opens any name as a new model, and the folder of a saved fake as what was saved."""

    def __init__(self, options: FakeModelOptions | None = None) -> None:
        self.options = options or FakeModelOptions.model_validate({})

    def open(self, source: str) -> FakeLanguageModel:
        """Open a name or a folder. Raises SourceError for a folder that holds no fake."""
        o = self.options
        if not Path(source).is_dir():
            config = FakeConfig(o.hidden, o.layers, o.vocabulary_size, o.max_length, o.causal)
            return FakeLanguageModel(config, source=source, pretrained=o.pretrained)
        file = Path(source) / "config.json"
        if not file.is_file():
            raise SourceError(f"model {source!r}: no config.json there")
        saved = json.loads(file.read_text())
        if saved.get("model_type") != "fake":
            raise SourceError(f"model {source!r}: model_type {saved.get('model_type')!r}, this opens 'fake'")
        return FakeLanguageModel(FakeConfig(*(saved[name] for name in _FIELDS)), source=source)


class FakeLanguageModel(LanguageModel):
    """pretrained: `weights` streams seeded numbers for the backbone. A source that is a folder streams its safetensors. Has the abilities
    `Steps`, `Stages` and `SharesPositions`."""

    family = "fake"

    def __init__(
        self, config: FakeConfig | None = None, *, source: str = "fake:tiny", pretrained: bool = False
    ) -> None:
        self.config = config or FakeConfig()
        self.processor = FakeProcessor(self.config.vocab_size, self.config.max_position_embeddings)
        self.source, self.pretrained = source, pretrained

    def anatomy(self, head: Head) -> Anatomy:
        """Paths; the vocabulary head is tied to the embedding."""
        names = {
            "vocabulary": "lm_head",
            "sequence": "classifier",
            "token": "classifier",
            "span": "qa_outputs",
            "custom": "head",
        }
        tied = {"lm_head.weight": "model.embed.weight"} if head.kind == "vocabulary" else {}
        return Anatomy(
            "model", "embed", "layers", "final", (names[head.kind],), self.config.causal, tied, ("share",), packs=True
        )

    def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> nn.Module:
        """The module; on "meta" without storage."""
        with torch.device(device):
            module = FakeModule(self.config, head)
        module = module.to(getattr(torch, dtype))
        return module

    def depth(self, head: Head) -> int:
        """All layers."""
        return int(self.config.num_hidden_layers)

    def stage(self, module: nn.Module, head: Head, layers: range) -> None:
        """Deletes the rest."""
        module.cut(layers, self.anatomy(head).head[0])

    def states(self, inputs: Mapping[str, torch.Tensor], parts: int = 1) -> dict[str, tuple[int, ...]]:
        """Hidden states, and the shares of positions in each other."""
        rows, length = inputs["input_ids"].shape
        own = length // parts
        return {"hidden": (rows, own, self.config.hidden_size), "share": (rows, own, length)}

    def shares(self, head: Head) -> None:
        """It does under every head."""

    def share(self, module: nn.Module, head: Head, positions: Positions) -> None:
        """Each layer gathers what it mixes."""
        module.share(positions)

    def decoder(self, module: nn.Module, slots: int, length: int, encoder_length: int = 0) -> HistoryDecoder:
        """One without a cache. Raises RefusalError for more positions than the model has."""
        if length > self.config.max_position_embeddings:
            raise RefusalError(
                f"a slot of {length} tokens: the model has {self.config.max_position_embeddings} positions"
            )
        return HistoryDecoder(module, slots, length, encoder_length, vocabulary=self.config.vocab_size)

    def generation(self) -> Mapping[str, Any]:
        """The end token."""
        return {"stop": (self.processor.special["eos"],)}

    def initialise(self, module: nn.Module, path: str) -> None:
        """Normal(0, 0.2) for tables and matrices, ones and zeros for norms and biases."""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
            else:
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The folder's tensors, or seeded ones, or none."""
        file = Path(self.source) / "model.safetensors"
        if file.is_file():
            from spcore.tensors.files import load_safetensors

            yield from load_safetensors(file)
        elif self.pretrained:
            for n, (name, parameter) in enumerate(_Backbone(self.config).named_parameters(prefix="model")):
                yield name, torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)) * 0.2

    def save_config(self, folder: Path, head: Head) -> None:
        """config.json with the configuration and the head."""
        content = {**asdict(self.config), "head": {"kind": head.kind, "size": head.size, "labels": list(head.labels)}}
        (folder / "config.json").write_text(json.dumps(content, indent=2))


class _Layer(nn.Module):  # type: ignore[misc]
    """x + tanh(linear(mean of the positions it may see))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor, share: torch.Tensor, positions: Positions | None = None) -> torch.Tensor:
        """x: [S, L, H]; share: [S, L, L], rows that add up to 1. positions: of which x and the rows are a part."""
        return x + torch.tanh(self.mix(share @ (x if positions is None else positions.gather(x, 1))))


class _Backbone(nn.Module):  # type: ignore[misc]
    """input_ids, attention_mask, position_ids, segment_ids: [S, L] -> hidden [S, L, H]."""

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.final = nn.LayerNorm(config.hidden_size)

    def forward(
        self, ids: torch.Tensor, segments: torch.Tensor, positions: torch.Tensor, shared: Positions | None
    ) -> dict[str, torch.Tensor]:
        """What the first layer is given. segments: 0 = padding; nothing is seen across a border."""
        seen = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        if self.causal:
            seen = seen & torch.ones_like(seen[0]).tril()
        share = seen.to(self.embed.weight.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)
        if shared is not None:
            ids, positions, share = (shared.own(x, 1) for x in (ids, positions, share))
        return {"hidden": self.embed(ids) + self.positions(positions), "share": share}


class FakeModule(nn.Module):  # type: ignore[misc]
    """The backbone with a head. Sequence heads read the mean of a sequence's (in packs: a segment's) tokens."""

    def __init__(self, config: FakeConfig, head: Head) -> None:
        super().__init__()
        self.kind, self.outputs = head.kind, tuple(head.outputs)
        self.layers = range(config.num_hidden_layers)
        self.shared: Positions | None = None
        self.model = _Backbone(config)
        if head.kind == "vocabulary":
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.lm_head.weight = self.model.embed.weight
        elif head.kind == "span":
            self.qa_outputs = nn.Linear(config.hidden_size, 2)
        elif head.build is not None:
            self.head = head.build(config)
        else:
            self.classifier = nn.Linear(config.hidden_size, head.size)

    def cut(self, layers: range, head: str) -> None:
        """Keep the layers of a stage, and at the ends what comes before and after."""
        self.layers, every = layers, self.model.layers
        if layers.stop < len(every):
            delattr(self, head)
            del self.model.final
        if layers.start:
            del self.model.positions
            if self.kind != "vocabulary" or layers.stop < len(every):  # else the head is tied to it
                del self.model.embed
        for n in range(len(every)):
            if n not in layers:
                every[n] = nn.Identity()

    def share(self, positions: Positions) -> None:
        """Work on a part of them."""
        self.shared = positions

    def forward(
        self,
        states: Mapping[str, torch.Tensor] | None = None,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """inputs: [S, L] -> the head's outputs, or a stage's states."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        segments = mask if segment_ids is None else segment_ids
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        given = states or self.model(input_ids, segments, position_ids, self.shared)
        hidden, share = given["hidden"], given["share"]
        for n in self.layers:
            hidden = self.model.layers[n](hidden, share, self.shared)
        if self.layers.stop < len(self.model.layers):
            return {"hidden": hidden, "share": share}
        hidden = self.model.final(hidden)
        if self.shared is not None and self.kind not in ("vocabulary", "token"):
            hidden = self.shared.gather(hidden, 1)
        return self._outputs(hidden, segments, starts(segment_ids) if segment_ids is not None else None)

    def _outputs(
        self, hidden: torch.Tensor, segments: torch.Tensor, packed: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        if self.kind == "custom":
            return dict(self.head(hidden, segments > 0, packed))
        if self.kind == "vocabulary":
            return {self.outputs[0]: self.lm_head(hidden)}
        if self.kind == "span":
            return dict(zip(self.outputs, self.qa_outputs(hidden).unbind(-1), strict=True))
        if self.kind == "sequence":
            hidden = pooled(hidden, segments, packed)
        return {self.outputs[0]: self.classifier(hidden)}


def starts(segment_ids: torch.Tensor) -> torch.Tensor:
    """(sequence, start) of every segment, sequence by sequence: int64 [N, 2]."""
    before = torch.nn.functional.pad(segment_ids, (1, 0))[:, :-1]
    return ((segment_ids > 0) & (segment_ids != before)).nonzero()


def pooled(hidden: torch.Tensor, segments: torch.Tensor, packed: torch.Tensor | None) -> torch.Tensor:
    """Mean over the tokens of each sequence, or of each segment that `packed` lists: [N, H]. segments: bool or numbers."""
    if packed is None:
        chosen = (segments > 0).to(hidden.dtype)
        rows = hidden
    else:
        which = segments[packed[:, 0], packed[:, 1]]
        chosen = (segments[packed[:, 0]] == which[:, None]).to(hidden.dtype)
        rows = hidden[packed[:, 0]]
    return (rows * chosen[..., None]).sum(1) / chosen.sum(1, keepdim=True).clamp(min=1)


def first_tokens(hidden: torch.Tensor, packed: torch.Tensor | None) -> torch.Tensor:
    """The hidden state of each sequence's, or segment's, first token: [N, H]."""
    return hidden[:, 0] if packed is None else hidden[packed[:, 0], packed[:, 1]]
