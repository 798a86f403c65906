"""Model source `transformers`."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import logging as talking

from spcore.bars import of_library
from spcore.errors import ArtifactError, RefusalError, SourceError
from spcore.imports import undisturbed
from spcore.interfaces.model import Anatomy, Head, LanguageModel, Model, Positions
from spcore.interfaces.runtime import Decodes
from spcore_transformers import decoding, generating, gguf_files, llama_steps, segments
from spcore_transformers.assembled import Assembled
from spcore_transformers.chat_templates import template_text
from spcore_transformers.configs import (
    auto_class,
    backbone_class,
    by_any_kernel,
    causal,
    check_unquantised,
    set_dropout,
    with_head,
)
from spcore_transformers.families import FAMILIES, Family
from spcore_transformers.initialising import initialise_custom, initialise_family, is_custom, mark_custom
from spcore_transformers.options import Style, TokenizerOptions, TransformersOptions
from spcore_transformers.own_tokenizer import own_tokenizer
from spcore_transformers.processor import TransformersProcessor
from spcore_transformers.quick import quicken
from spcore_transformers.scratch import check_source, made_config, made_style, retokenized, style_of
from spcore_transformers.source import locate, translated
from spcore_transformers.tokenizer_training import of_bytes

_RENAMED = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)
"""Names of checkpoints from TensorFlow's days (bert-base-uncased on the Hub), and what they are called now."""
_RENAMED_IN = {"gpt_neox": ((re.compile(r"^embed_out\."), "lm_head."),)}
"""The same of one family: what transformers stores under another name than the module's."""

BYTES = "bytes"
"""Name of the tokenizer that needs no training."""
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "source.spm",
)  # fmt: skip
_LANGUAGE = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})


class TransformersModel(Model):
    """Opens a Hub name, from the Hub or its cache, a folder, or a GGUF file; without a source, makes the model that its options say.
    Code that comes with a model is never run."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options
        self.learns = isinstance(options.tokenizer, TokenizerOptions)
        self._texts: tuple[Iterable[str], int | None, str] | None = None

    def learn(self, texts: Iterable[str], rows: int | None, key: str) -> None:
        """See `LearnsTexts.learn`: a tokenizer of the training texts, made when the model is opened."""
        self._texts = texts, rows, key

    def open(self, source: str) -> LanguageModel:
        """See `Model.open`. source: empty for a model that is made from nothing."""
        options, gguf = self.options, None
        check_source(options, source)
        if source:
            config, tokenizer, gguf = self._stored(source)
        else:
            style = made_style(options)
            tokenizer = self._tokenizer(self._named(style), options.revision, style)
            config = made_config(options, tokenizer)
        if options.chat_template is not None:
            tokenizer.chat_template = template_text(options.chat_template)
        if options.dropout is not None:
            set_dropout(config, options.dropout)
        model = TransformersLanguageModel(source, config, tokenizer, options, gguf)
        if not source:
            model.check_sizes()
        return model

    def _stored(self, source: str) -> tuple[Any, Any, Path | None]:
        """Configuration and tokenizer of a source, and the GGUF file where it is one."""
        options = self.options
        gguf = gguf_files.find(source, options.revision)
        if gguf is not None:
            config, tokenizer = gguf_files.opened(gguf)
        else:
            with translated(source, options.revision):
                config = AutoConfig.from_pretrained(source, revision=options.revision, trust_remote_code=False)
            check_unquantised(source, config, from_scratch=options.from_scratch)
        if options.tokenizer is not None:
            tokenizer = self._tokenizer(self._named(style_of(config)), None, style_of(config))
            retokenized(config, tokenizer)
        elif gguf is None:
            tokenizer = _opened_tokenizer(source, options.revision)
        return config, tokenizer, gguf

    def _named(self, style: Style) -> str:
        """Where the tokenizer is. Raises RefusalError for one that is to be made where nothing is trained."""
        wanted = self.options.tokenizer
        if not isinstance(wanted, TokenizerOptions):
            return str(wanted)
        if self._texts is None:
            raise RefusalError(
                "model.tokenizer: is to be made of a run's training texts, and there are none here",
                hint="Name a folder; `slimpajama tokenizer train` makes one",
            )
        return str(own_tokenizer(wanted, style, *self._texts))

    def _tokenizer(self, source: str, revision: str | None, style: Style) -> Any:
        """The tokenizer of a model whose weights are new. What it says of another model's length does not hold for this one."""
        if source == BYTES and not Path(source).exists():
            return of_bytes(style)
        if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _TOKENIZER_FILES):
            raise SourceError(
                f"model.tokenizer: the folder {source!r} has no tokenizer files (tokenizer.json or the like)"
            )
        try:
            tokenizer = _opened_tokenizer(source, revision)
        except SourceError as error:
            raise SourceError(f"model.tokenizer: {error.message.removeprefix('model ')}", hint=error.hint) from error
        tokenizer.model_max_length = VERY_LARGE_INTEGER
        return tokenizer


def _opened_tokenizer(source: str, revision: str | None) -> Any:
    with translated(source, revision):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    # Where there are no files, transformers makes a tokenizer of special tokens alone.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise SourceError(
            f"model {source!r}: there are no tokenizer files (tokenizer.json, vocab.txt or the like) beside config.json"
        )
    return tokenizer


class TransformersLanguageModel(LanguageModel):
    """An opened transformers model. What transformers alone knows of a family (names of head modules, ties) is asked of its class
    without storage, made once for each kind of head."""

    def __init__(
        self, source: str, config: Any, tokenizer: Any, options: TransformersOptions, gguf: Path | None = None
    ) -> None:
        self.source, self.config, self.options, self._gguf = source, config, options, gguf
        self.family = str(config.model_type)
        self._known = FAMILIES.get(self.family)
        self._skeletons: dict[str, Any] = {}
        self.processor = TransformersProcessor(tokenizer, config, self._positions())

    def check_sizes(self) -> None:
        """Make the backbone without storage. Raises RefusalError for sizes that the family's class cannot be made with."""
        try:
            with undisturbed(), torch.device("meta"):
                backbone_class(self.config)(self.config)
        except (ValueError, RuntimeError, TypeError, KeyError, ZeroDivisionError) as error:
            text = f"{error} is not known" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise RefusalError(f"model.architecture {self.family!r}: cannot be made: {text}") from error

    def _positions(self) -> int | None:
        """Tokens that the position table allows."""
        most = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(most, int) or most <= 0:
            return None
        return most - (self._known.first_position(self.config) if self._known else 0)

    def anatomy(self, head: Head) -> Anatomy:
        """See `LanguageModel.anatomy`. Makes a module without storage the first time."""
        whole = self._skeleton(head)
        base = self._base(whole)
        custom = head.kind == "custom"
        known = self._known_under(head)
        inside = {base} if base or known is None else {path.partition(".")[0] for path in known.paths()}
        heads = ("head",) if custom else tuple(name for name, _ in whole.named_children() if name not in inside)
        tied = {} if custom else dict(getattr(whole, "all_tied_weights_keys", None) or {})
        if known is not None:
            return Anatomy(
                base, known.embed, known.layers, known.final, heads, known.causal, tied, known.carried, known.packs,
                known.encoder_layers,
            )  # fmt: skip
        backbone = whole if custom or not base else whole.get_submodule(base)
        lists = [
            (len(m), -n, name)
            for n, (name, m) in enumerate(backbone.named_modules())
            if isinstance(m, torch.nn.ModuleList)
        ]
        return Anatomy(
            base, None, max(lists)[2] if lists else None, None, heads if base else (), causal(self.config), tied
        )

    def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> torch.nn.Module:
        """See `LanguageModel.build`."""
        if head.kind == "vocabulary":
            _ = self._generation_file  # `save_config` writes it too, when the Hub may be out of reach
        whole, custom = self._make(head, device), None
        quicken(whole)
        if head.build is not None:
            with torch.device(device):
                custom = head.build(whole.config)
            mark_custom(custom)
            placed = [
                name for name, tensor in custom.named_parameters() if tensor.device.type != torch.device(device).type
            ]
            if placed:
                raise RefusalError(
                    f"custom head: {placed[0]!r} chooses its own device", hint="Leave devices to the engine"
                )
        known = self._known_under(head)
        # An encoder-decoder's class is run as it is: there are no hidden states of one stack to give a head.
        parts = known if known is not None and known.encoder_layers is None else None
        module = Assembled(whole, head, self._base(whole), parts, custom)
        # Parameters only: buffers (rotary frequencies) lose what they say in a narrow format.
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(getattr(torch, dtype))
        return module

    def _make(self, head: Head, device: str) -> Any:
        """An instance of the family's class with this head, or of its backbone for a custom one."""
        config = with_head(self.config, head)
        self._check(head, config)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # of keys and values: for decoding alone
        auto = getattr(transformers, auto_class(config, head))
        settings: dict[str, Any] = {}
        if head.kind == "custom" and "add_pooling_layer" in backbone_class(config).__init__.__code__.co_varnames:
            settings["add_pooling_layer"] = False
        try:
            with undisturbed(), torch.device(device):  # the family's module is imported now, and what that imports
                return by_any_kernel(auto.from_config(config, attn_implementation=self._attention(), **settings))
        except ValueError as error:
            what = (
                f"has no head of kind {head.kind!r}"
                if "Unrecognized configuration" in str(error)
                else f"refuses: {error}"
            )
            raise RefusalError(
                f"model {self.source or self.family!r}: family {self.family!r} {' '.join(what.split())[:200]}"
            ) from error

    def _attention(self) -> str | None:
        if self.options.attention != "auto":
            return self.options.attention
        if self._known is None or not self._known.packs:
            return None
        if getattr(self.config, "attn_logit_softcapping", None) is not None:
            return "eager"  # what bounds scores (Gemma 2) is in no fused kernel
        segments.register()
        return segments.NAME

    def _check(self, head: Head, config: Any) -> None:
        """Refuse now what would fail in mid-run."""
        if head.kind == "custom" and config.is_encoder_decoder:
            raise RefusalError(
                f"model {self.source or self.family!r}: a custom head sits on one stack of layers; {self.family!r} has an encoder and a decoder"
            )
        if head.kind == "sequence" and causal(config) and config.pad_token_id is None:
            raise RefusalError(
                f"model {self.source or self.family!r}: its head reads each text's last token, and config.json has no pad_token_id to find it by",
                hint="Set pad_token_id in config.json",
            )

    def _base(self, whole: Any) -> str:
        """Where the backbone lies in the module built; "" where the class has none of its own (T5)."""
        prefix = str(type(whole).base_model_prefix or "")
        if isinstance(whole, backbone_class(self.config)):
            return prefix or "model"
        return prefix if prefix and hasattr(whole, prefix) else ""

    def _known_under(self, head: Head) -> Family | None:
        """What is known of this family under this head."""
        known = self._known
        return None if known is not None and known.encoder_layers and head.kind != "vocabulary" else known

    def _skeleton(self, head: Head) -> Any:
        """The module without storage, to ask for names; one a kind of head."""
        if head.kind not in self._skeletons:
            self._skeletons[head.kind] = self._make(head, "meta")
        return self._skeletons[head.kind]

    def initialise(self, module: torch.nn.Module, path: str) -> None:
        """See `LanguageModel.initialise`; parameters and buffers alike."""
        if is_custom(module):
            initialise_custom(module, path)
            return
        whole, below = self._holding(path)
        initialise_family(module.as_family() if isinstance(module, Assembled) else module, below, whole)

    def _holding(self, path: str) -> tuple[Any, str]:
        """A module without storage that has `path`, and the path in it: in a bare backbone it lacks the base's name."""
        for whole in self._skeletons.values():
            base = f"{self._base(whole)}."
            below = path.removeprefix(base) if isinstance(whole, backbone_class(self.config)) else path
            if _has(whole, below):
                return whole, below
        raise AssertionError(f"{path!r} is in no module that was built here")

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `LanguageModel.weights`."""
        if self.options.from_scratch or not self.source:
            return
        if self._gguf is not None:
            yield from gguf_files.tensors(self._gguf, self._skeleton(_LANGUAGE))
            return
        files = locate(self.source, self.options.revision)
        if get_checkpoint_conversion_mapping(self.family) is None:
            names, tensors = files.names(), files.tensors()
        else:
            whole = self._converted()
            names, tensors = list(whole), iter(whole.items())
        # A bare backbone's checkpoint (MiniLM's) lacks the prefix that the same tensors have under a head; a few heads (Llama's for
        # spans) have another than the family's others.
        usual = f"{backbone_class(self.config).base_model_prefix}."
        bare = {base: base and not any(name.startswith(base) for name in names) for base in self._prefixes()}
        for name, tensor in tensors:
            for old, new in (*_RENAMED, *_RENAMED_IN.get(self.family, ())):
                name = old.sub(new, name)
            for full in {
                base + name.removeprefix(usual) if lacks and not name.startswith("head.") else name
                for base, lacks in bare.items()
            }:
                yield full, tensor

    def _converted(self) -> dict[str, torch.Tensor]:
        """All tensors of a family whose files transformers joins or splits while it loads (experts): held whole, not streamed."""
        named = (self.config.architectures or ["AutoModel"])[0]
        bars = of_library(
            talking.disable_progress_bar, talking.enable_progress_bar, lambda: not talking.is_progress_bar_enabled()
        )
        with bars, translated(self.source, self.options.revision):
            model = getattr(transformers, named, transformers.AutoModel).from_pretrained(
                self.source, revision=self.options.revision, dtype=torch.float32, use_safetensors=True
            )
        found: dict[str, torch.Tensor] = model.state_dict()
        return found

    def _prefixes(self) -> set[str]:
        """What the backbone's names begin with in modules that are built: one prefix, but where heads differ in it."""
        headed = {self._base(whole) for kind, whole in self._skeletons.items() if kind != "custom"}
        return {f"{base}." if base else "" for base in headed or {str(backbone_class(self.config).base_model_prefix)}}

    def depth(self, head: Head) -> int:
        """See `Stages.depth`."""
        known = self._known_under(head)
        if known is not None and known.encoder_layers:
            raise RefusalError(f"family {self.family!r} has an encoder and a decoder: it is not cut into stages")
        if known is None or not known.staged:
            staged = ", ".join(name for name, family in FAMILIES.items() if family.staged)
            raise RefusalError(f"family {self.family!r} is not cut into stages; these are: {staged}")
        return int(self.config.num_hidden_layers)

    def stage(self, module: torch.nn.Module, head: Head, layers: range) -> None:
        """See `Stages.stage`."""
        assert isinstance(module, Assembled), "a module that `build` made"
        module.cut(self.anatomy(head), layers)

    def states(self, inputs: Mapping[str, torch.Tensor], parts: int = 1) -> dict[str, tuple[int, ...]]:
        """See `Stages.states`."""
        rows, length = inputs["input_ids"].shape
        return {"hidden": (rows, length // parts, int(self.config.hidden_size))}

    def shares(self, head: Head) -> None:
        """See `SharesPositions.shares`."""
        known = self._known_under(head)
        if known is None or not (known.packs or known.shares):
            shared = ", ".join(name for name, family in FAMILIES.items() if family.packs or family.shares)
            raise RefusalError(f"family {self.family!r} does not take its positions in parts; these do: {shared}")
        if self._attention() != (segments.NAME if known.packs else None):
            why = (
                "model.attention is given"
                if self.options.attention != "auto"
                else f"family {self.family!r} bounds its scores"
            )
            raise RefusalError(f"{why}: attention that gathers keys and values is the automatic one")

    def share(self, module: torch.nn.Module, head: Head, positions: Positions) -> None:
        """See `SharesPositions.share`."""
        assert isinstance(module, Assembled), "a module that `build` made"
        module.share(positions)

    def decoder(self, module: torch.nn.Module, slots: int, length: int, encoder_length: int = 0) -> Decodes:
        """See `Steps.decoder`."""
        decoding.check(self.config, self.source or self.family)
        assert isinstance(module, Assembled), "a module that `build` made"
        most = self._positions()
        for asked in (length, encoder_length):
            if most is not None and asked > most:
                raise RefusalError(
                    f"model {self.source or self.family!r}: {asked} positions asked for, it has {most}; ask for fewer"
                )
        whole = module.as_family()
        made = llama_steps.LlamaDecoder if llama_steps.fits(whole.config) else decoding.SlotDecoder
        return made(whole, (slots, length, encoder_length))

    def generation(self) -> Mapping[str, Any]:
        """See `Steps.generation`. Raises RefusalError for a family that is not verified, and for a setting that cannot be honoured."""
        decoding.check(self.config, self.source or self.family)
        settings = generating.own_settings(self._generation_file, self.config)
        return generating.as_request(settings, self.config, self.source or self.family)

    @functools.cached_property
    def _generation_file(self) -> Path | None:
        return generating.own_file(self.source, self.options.revision)

    def save_config(self, folder: Path, head: Head) -> None:
        """See `LanguageModel.save_config`."""
        config = with_head(self.config, head)
        config.architectures = [type(self._skeleton(head)).__name__]
        if getattr(config, "quantization_config", None) is not None:
            raise ArtifactError(
                f"model {self.source or self.family!r}: its configuration says that its weights are quantised; these are not"
            )
        config.save_pretrained(folder)
        file = folder / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)  # a path of this machine
        file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        if head.kind == "vocabulary" and self._generation_file is not None:
            shutil.copyfile(self._generation_file, folder / generating.FILE)


def _has(whole: torch.nn.Module, path: str) -> bool:
    try:
        whole.get_submodule(path)
    except AttributeError:
        return False
    return True
