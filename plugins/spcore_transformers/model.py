"""Model source `transformers`."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from spcore.errors import ArtifactError, RefusalError
from spcore.interfaces.model import Anatomy, Head, LanguageModel, Model
from spcore_transformers import segments
from spcore_transformers.assembled import Assembled
from spcore_transformers.families import DROPOUTS, FAMILIES, Family
from spcore_transformers.options import TransformersOptions
from spcore_transformers.processor import TransformersProcessor
from spcore_transformers.source import locate, translated

_AUTO = {"sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification", "span": "AutoModelForQuestionAnswering"}


class TransformersModel(Model):
    """Opens a Hub name or a folder. Code from the Hub is never run."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options

    def open(self, source: str) -> LanguageModel:
        """See `Model.open`."""
        with translated(source, self.options.revision):
            config = AutoConfig.from_pretrained(source, revision=self.options.revision, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=self.options.revision, trust_remote_code=False)
        if self.options.dropout is not None:
            set_dropout(config, self.options.dropout)
        return TransformersLanguageModel(source, config, tokenizer, self.options)


def set_dropout(config: Any, value: float) -> None:
    """Set every dropout probability of a configuration. Raises RefusalError where it has none."""
    found = [name for name in DROPOUTS if hasattr(config, name)]
    if not found:
        raise RefusalError(f"model.dropout {value}: family {config.model_type!r} has no dropout to set")
    for name in found:
        setattr(config, name, value)


class TransformersLanguageModel(LanguageModel):
    """An opened transformers model."""

    def __init__(self, source: str, config: Any, tokenizer: Any, options: TransformersOptions) -> None:
        self.source, self.config, self.options = source, config, options
        self.family = config.model_type
        self._known: Family | None = FAMILIES.get(self.family)
        self._skeletons: dict[str, Any] = {}
        self.processor = TransformersProcessor(tokenizer, config, self._positions())

    def _positions(self) -> int | None:
        most = getattr(self.config, "max_position_embeddings", None)
        if not most or most < 0:
            return None
        return int(most) - (self._known.first_position(self.config) if self._known else 0)

    def anatomy(self, head: Head) -> Anatomy:
        """See `LanguageModel.anatomy`."""
        whole = self._skeleton(head)
        base = self._base(whole)
        tied = getattr(whole, "all_tied_weights_keys", None) or {}
        heads = ("head",) if head.kind == "custom" else tuple(n for n, _ in whole.named_children() if n != base)
        if self._known is not None:
            k = self._known
            return Anatomy(base, k.embed, k.layers, k.final, heads, k.causal, dict(tied) if head.kind != "custom" else {}, packs=k.packs)
        backbone = whole if head.kind == "custom" else whole.get_submodule(base)
        lists = [(len(m), n) for n, m in backbone.named_modules() if isinstance(m, torch.nn.ModuleList)]
        causal = bool(getattr(self.config, "is_decoder", False)) or not _bidirectional(self.config)
        return Anatomy(base, None, max(lists)[1] if lists else None, None, heads, causal, dict(tied) if head.kind != "custom" else {})

    def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> torch.nn.Module:
        """See `LanguageModel.build`."""
        whole = self._make(head, device)
        with torch.device(device):
            custom = head.build(whole.config) if head.build is not None else None
        if custom is not None:
            missing = [n for n, p in custom.named_parameters() if p.device.type != torch.device(device).type]
            assert not missing, f"the head makes its own devices: {missing[0]}"
        return Assembled(whole, head, self._base(whole), self._known, custom).to(getattr(torch, dtype))

    def _base(self, whole: Any) -> str:
        return self._known.base if self._known is not None else str(whole.base_model_prefix or "model")

    def _make(self, head: Head, device: str) -> Any:
        """An instance of the family's class with this head, or of its backbone for a custom one."""
        config = copy.deepcopy(self.config)
        set_labels(config, head)
        segments.register()
        kind = {"attn_implementation": segments.NAME} if self._known is not None and self._known.packs else {}
        auto = getattr(transformers, self._auto_class(head))
        try:
            with torch.device(device):
                if head.kind == "custom" and self.family in ("bert", "roberta", "xlm-roberta"):
                    return auto.from_config(config, add_pooling_layer=False, **kind)
                return auto.from_config(config, **kind)
        except ValueError as error:
            raise RefusalError(f"model {self.source!r}: family {self.family!r} has no head of kind {head.kind!r}") from error

    def _auto_class(self, head: Head) -> str:
        if head.kind == "vocabulary":
            names = self.config.architectures or [""]
            causal = not _bidirectional(self.config) or "CausalLM" in names[0] or "LMHead" in names[0]
            return "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
        return _AUTO.get(head.kind, "AutoModel")

    def _skeleton(self, head: Head) -> Any:
        """A meta instance to ask for names; one a kind of head."""
        if head.kind not in self._skeletons:
            self._skeletons[head.kind] = self._make(head, "meta")
        return self._skeletons[head.kind]

    def initialise(self, module: torch.nn.Module, path: str) -> None:
        """See `LanguageModel.initialise`."""
        if path == "head" or path.startswith("head."):
            reset = getattr(module, "reset_parameters", None)
            if reset is None and next(module.parameters(recurse=False), None) is not None:
                raise RefusalError(f"custom head: {type(module).__name__} at {path!r} has parameters and no reset_parameters(): give it one")
            if reset is not None:
                reset()
            return
        skeleton = next(iter(self._skeletons.values()))
        skeleton._init_weights(module)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `LanguageModel.weights`."""
        if self.options.from_scratch:
            return
        files = locate(self.source, self.options.revision)
        prefix = f"{self._base(next(iter(self._skeletons.values())))}."
        stored = list(files.names())
        # A bare backbone's checkpoint (MiniLM's) lacks the prefix that the same tensors have under a head.
        bare = not any(name.startswith(prefix) for name in stored)
        for name, tensor in files.tensors():
            yield (name if not bare or name.startswith("head.") else prefix + name), tensor

    def save_config(self, folder: Path, head: Head) -> None:
        """See `LanguageModel.save_config`."""
        whole = self._skeleton(head)
        config = copy.deepcopy(self.config)
        set_labels(config, head)
        config.architectures = [type(whole).__name__]
        config.dtype = "float32"
        if hasattr(config, "quantization_config"):
            raise ArtifactError(f"{self.source}: a quantised configuration cannot be saved as it is")
        config.save_pretrained(folder)
        file = folder / "config.json"
        content = json.loads(file.read_text())
        content.pop("_name_or_path", None)
        file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def set_labels(config: Any, head: Head) -> None:
    """Put a head's labels and problem type into a configuration, under Hugging Face's names."""
    if head.kind not in ("sequence", "token"):
        return
    names = list(head.labels) or [f"LABEL_{n}" for n in range(head.size)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: n for n, name in enumerate(names)}
    if head.problem_type is not None:
        config.problem_type = head.problem_type


def _bidirectional(config: Any) -> bool:
    """Whether a family is an encoder: it has a masked-language-model class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
