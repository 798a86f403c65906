"""Configurations of models that are made from nothing: common names for sizes, the tokenizer's ids, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig

from spcore.errors import RefusalError, nearest, short, unknown
from spcore_transformers.configs import causal, set_dropout
from spcore_transformers.families import FAMILIES
from spcore_transformers.options import Style, TransformersOptions
from spcore_transformers.presets import PRESETS

_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "hidden_size": (("hidden_size",), ("n_embd",), ("d_model",), ("dim",)),
    "layers": (
        ("num_layers", "num_decoder_layers"), ("encoder_layers", "decoder_layers"), ("num_hidden_layers",), ("n_layer",), ("n_layers",),
    ),
    "decoder_layers": (("num_decoder_layers",), ("decoder_layers",)),
    "heads": (
        ("encoder_attention_heads", "decoder_attention_heads"), ("num_attention_heads",), ("n_head",), ("n_heads",), ("num_heads",),
    ),
    "key_value_heads": (("num_key_value_heads",),),
    "head_size": (("head_dim",), ("d_kv",)),
    "intermediate_size": (
        ("encoder_ffn_dim", "decoder_ffn_dim"), ("intermediate_size",), ("n_inner",), ("d_ff",), ("hidden_dim",), ("ffn_dim",),
    ),
    "positions": (("max_position_embeddings",), ("n_positions",)),
    "tie_embeddings": (("tie_word_embeddings",),),
}  # fmt: skip
"""An option -> the names that families have for it, of which the first whose keys a family has is taken; all keys get the value."""
_OWN = (
    "vocab_size",
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "quantization_config",
)
"""Keys that others decide: the tokenizer, the task, transformers."""
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_INSTEAD = {"bos": "cls", "eos": "sep", "cls": "bos", "sep": "eos"}
"""BERT's names and GPT's for the tokens round a text."""


def check_source(options: TransformersOptions, source: str) -> None:
    """Refuse what contradicts itself: a source and an architecture, neither, and sizes that nothing would take. Raises RefusalError."""
    made = "preset" if options.preset else "architecture" if options.architecture else None
    if options.preset and options.architecture:
        raise RefusalError(
            f"model.architecture {options.architecture!r}: model.preset {options.preset!r} says it already; give one of them"
        )
    if source and made:
        raise RefusalError(
            f"model.{made} {getattr(options, made)!r}: model.source {source!r} is given too",
            hint="Give a source for a model that is there, an architecture or a preset for one made from nothing",
        )
    if made is None and not source:
        raise RefusalError("model: neither source nor architecture nor preset is given: give one of them")
    if made is not None:
        if options.tokenizer is None:
            raise RefusalError(
                f"model.tokenizer: not given, and model.{made} {getattr(options, made)!r} has none",
                hint="Name a folder or a Hub name (`slimpajama tokenizer train` makes one of your data), or bytes",
            )
        return
    others = {"vocabulary_multiple": options.vocabulary_multiple > 1, "config": options.config}
    given = [*_own(options), *(name for name, value in others.items() if value)]
    if given:
        raise RefusalError(
            f"model.{given[0]}: goes with model.architecture or model.preset; {source!r} says its own",
        )
    if options.tokenizer is not None and not options.from_scratch:
        raise RefusalError(
            f"model.tokenizer {str(options.tokenizer)!r}: the weights of {source!r} know their own tokenizer's ids only",
            hint="Set model.from_scratch=true for new weights, or leave model.tokenizer out",
        )


def made_style(options: TransformersOptions) -> Style:
    """The special tokens that the family to be made wants."""
    family = _given(options)[0]
    return style_of(AutoConfig.for_model(family)) if family in CONFIG_MAPPING else "gpt"


def style_of(config: Any) -> Style:
    """The special tokens that a family wants."""
    return "t5" if config.is_encoder_decoder else "gpt" if causal(config) else "bert"


def made_config(options: TransformersOptions, tokenizer: Any) -> Any:
    """The configuration that `architecture` or `preset` and the sizes say. Raises RefusalError before anything is built."""
    family, given = _given(options)
    if family not in CONFIG_MAPPING:
        near = nearest(family, CONFIG_MAPPING)
        guess = f"; did you mean {near!r}?" if near else ";"
        raise RefusalError(
            f"model.architecture: unknown family {short(family)!r}{guess} verified: {', '.join(sorted(FAMILIES))}; "
            f"transformers knows {len(CONFIG_MAPPING.keys())}"
        )
    kind = CONFIG_MAPPING[family]
    fields = {field.name for field in dataclasses.fields(kind) if not field.name.startswith("_")}
    if "vocab_size" not in fields:
        raise RefusalError(f"model.architecture {family!r}: a family without a vocabulary; it is no language model")
    usual = AutoConfig.for_model(family)
    extra = _checked(family, given.pop("config", {}), fields, kind.attribute_map)
    twice = [key for key in extra if any(key in keys for name in given for keys in _NAMES[name])]
    if twice:
        raise RefusalError(f"model.config.{twice[0]}: an option of its own says it already; give one of them")
    settings = _sizes(family, given, usual, fields) | extra
    if family in FAMILIES and FAMILIES[family].offset:
        first = _needed(tokenizer, "pad", family) + 1
        if "positions" in given:
            settings[_key("positions", fields)] += first
    settings |= _of_tokenizer(usual, fields, tokenizer, options.vocabulary_multiple)
    try:
        config = AutoConfig.for_model(family, **settings)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise RefusalError(f"model.architecture {family!r}: refused by transformers: {_line(error)}") from error
    _check_heads(family, config, fields)
    _check_experts(config)
    dropout = PRESETS[options.preset].sizes.get("dropout") if options.preset else None
    if options.dropout is None and dropout is not None:
        set_dropout(config, dropout)
    return config


def retokenized(config: Any, tokenizer: Any) -> None:
    """Have a configuration whose weights will be new say another tokenizer's sizes and ids."""
    for name, value in _of_tokenizer(config, set(config.to_dict()), tokenizer, 1).items():
        setattr(config, name, value)


def _own(options: TransformersOptions) -> dict[str, Any]:
    """The sizes that the options give themselves."""
    every = {
        "hidden_size": options.hidden_size, "layers": options.layers, "decoder_layers": options.decoder_layers, "heads": options.heads,
        "key_value_heads": options.key_value_heads, "head_size": options.head_size, "intermediate_size": options.intermediate_size,
        "positions": options.positions, "tie_embeddings": options.tie_embeddings,
    }  # fmt: skip
    return {name: value for name, value in every.items() if value is not None}


def _given(options: TransformersOptions) -> tuple[str, dict[str, Any]]:
    """The family, and the sizes that are given: the preset's, and over them the options'."""
    sizes: dict[str, Any] = {}
    family = options.architecture
    if options.preset is not None:
        if options.preset not in PRESETS:
            raise RefusalError(f"model.preset: {unknown('preset', options.preset, PRESETS, limit=len(PRESETS))}")
        preset = PRESETS[options.preset]
        family, sizes = preset.architecture, {k: v for k, v in preset.sizes.items() if k != "dropout"}
    assert family is not None, "check_source refuses neither"
    own = _own(options)
    if {"heads", "hidden_size"} & own.keys():  # what was right for the preset's heads is not for others
        sizes.pop("head_size", None)
    if "heads" in own:
        sizes.pop("key_value_heads", None)
    if "hidden_size" in own:
        sizes.pop("intermediate_size", None)
    return family, {**sizes, **own, "config": {**sizes.get("config", {}), **options.config}}


def _checked(family: str, config: Mapping[str, Any], fields: set[str], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The keys of `model.config` under the family's own names. Some have a key whose alias is how its value is stored (Qwen3-MoE)."""
    found = {}
    for key, value in config.items():
        name = key if key in fields else aliases.get(key, key)
        if name in _OWN or name.endswith("_token_id"):
            raise RefusalError(
                f"model.config.{key}: not yours to set; the tokenizer, the task and transformers decide it"
            )
        if name not in fields:
            known = (fields | set(aliases)) - set(_OWN)
            raise RefusalError(f"model.config.{key}: {unknown(f'key of family {family!r}', key, known)}")
        found[name] = value
    return found


def _keys(option: str, fields: set[str]) -> tuple[str, ...]:
    """A family's own keys for an option; empty where it has none."""
    return next((keys for keys in _NAMES[option] if fields.issuperset(keys)), ())


def _key(option: str, fields: set[str]) -> str:
    return (*_keys(option, fields), "")[0]


def _sizes(family: str, given: Mapping[str, Any], usual: Any, fields: set[str]) -> dict[str, Any]:
    """The options under the family's own names, and what follows from them."""
    settings: dict[str, Any] = {}
    for option, value in given.items():
        keys = _keys(option, fields)
        if not keys:
            raise RefusalError(f"model.{option} {value!r}: family {family!r} has no such setting; leave it out")
        settings |= dict.fromkeys(keys, value)

    def of(option: str) -> int | None:
        key = _key(option, fields)
        found: int | None = settings.get(key, getattr(usual, key)) if key else None
        return found

    hidden, heads = of("hidden_size"), of("heads")
    if hidden and heads and "head_size" not in given and {"hidden_size", "heads"} & given.keys():
        if hidden % heads:
            raise RefusalError(
                f"model.heads {heads}: does not divide hidden_size, which is {hidden}; "
                f"near: {', '.join(map(str, _divisors(hidden, heads)))}"
            )
        settings |= dict.fromkeys(_keys("head_size", fields), hidden // heads)
    if "heads" in given and "key_value_heads" not in given:
        settings |= dict.fromkeys(_keys("key_value_heads", fields), heads)
    feed = _key("intermediate_size", fields)
    # Where a family's default is null (GPT-2) it follows hidden_size by itself.
    if hidden and "hidden_size" in given and "intermediate_size" not in given and feed and getattr(usual, feed):
        wide = -(-hidden * int(getattr(usual, feed)) // (8 * int(getattr(usual, _key("hidden_size", fields))))) * 8
        settings |= dict.fromkeys(_keys("intermediate_size", fields), wide)
    return settings


def _divisors(hidden: int, heads: int) -> list[int]:
    """The nearest numbers of heads that do divide."""
    every = [n for n in range(1, hidden + 1) if hidden % n == 0]
    return sorted(sorted(every, key=lambda n: abs(n - heads))[:3])


def _check_heads(family: str, config: Any, fields: set[str]) -> None:
    """Refuse what transformers would notice in the first forward pass, or never."""
    heads = getattr(config, _key("heads", fields), None)
    if not heads:  # a family without attention (Mamba)
        return
    groups = getattr(config, "num_key_value_heads", None) or heads
    if heads % groups:
        raise RefusalError(f"model.key_value_heads {groups}: does not divide heads, which is {heads}")
    size = getattr(config, _key("head_size", fields) or "head_dim", None) or config.hidden_size // heads
    rotary = getattr(config, "rope_parameters", None) or {}
    turned = int(size * rotary.get("partial_rotary_factor", 1.0)) if rotary else 0
    if turned % 2:
        raise RefusalError(
            f"model.head_size: {turned} of {size} dimensions turn with the position; give an even number"
        )
    wide = getattr(config, "rotary_dim", None)
    if isinstance(wide, int) and wide > size:
        raise RefusalError(
            f"model.config.rotary_dim {wide}: a head has {size} dimensions, of which so many are to turn with the position; "
            f"give an even number up to {size}"
        )


def _check_experts(config: Any) -> None:
    """Refuse a token that is to go to more experts than there are."""
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    experts, each = next((n for n in counts if isinstance(n, int)), None), getattr(config, "num_experts_per_tok", None)
    if experts and isinstance(each, int) and each > experts:
        raise RefusalError(
            f"model.config.num_experts_per_tok {each}: the model has {experts} experts; give {experts} or less"
        )


def _of_tokenizer(usual: Any, fields: set[str], tokenizer: Any, multiple: int) -> dict[str, Any]:
    """Vocabulary size and special ids as a configuration has them. usual: says which id a family's decoder starts with."""
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in _SPECIAL}
    ids = {role: i if i is not None else ids.get(_INSTEAD.get(role, "")) for role, i in ids.items()}
    size = 1 + max(tokenizer.get_vocab().values())
    size = -(-size // multiple) * multiple
    found: dict[str, Any] = {name: size for name in ("vocab_size", "decoder_vocab_size") if name in fields}
    found |= {f"{role}_token_id": i for role, i in ids.items() if f"{role}_token_id" in fields}
    if usual.is_encoder_decoder:
        family = str(usual.model_type)
        start = getattr(usual, "decoder_start_token_id", None)
        role = "eos" if start is not None and start == usual.eos_token_id else "pad"
        found["decoder_start_token_id"] = ids[role] if ids[role] is not None else _needed(tokenizer, role, family)
        found["pad_token_id"] = _needed(tokenizer, "pad", family)
        if "forced_eos_token_id" in fields:
            found["forced_eos_token_id"] = None  # BART's; what ends for want of room is to be told as that
    return found


def _needed(tokenizer: Any, role: str, family: str) -> int:
    """The id of a special token that a family cannot do without."""
    found: int | None = getattr(tokenizer, f"{role}_token_id")
    if found is None:
        raise RefusalError(
            f"model.tokenizer {tokenizer.name_or_path!r}: has no {role} token, which family {family!r} needs",
            hint=f"`slimpajama tokenizer train --special {role}=TOKEN` gives it one",
        )
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
