"""What is changed in, or read from, a transformers configuration."""

from __future__ import annotations

import copy
import re
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

from spcore.errors import RefusalError
from spcore.interfaces.model import Head

_DROPOUT = re.compile(r"(^|_)(dropout(_prob|_rate|_p)?|[a-z]+_pdrop)$")
_AUTO = {
    "sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering", "custom": "AutoModel",
}  # fmt: skip


def by_any_kernel(module: Any) -> Any:
    """A family's module, as it was made. torch's grouped products take rows of whole 16 bytes: experts of other sizes are gone through one by one."""
    sizes = [n for p in module.parameters() if p.dim() == 3 for n in p.shape[1:]]  # [experts, out, in]
    if module._can_set_experts_implementation() and any(n % 8 for n in sizes):
        module.set_experts_implementation("eager")
    return module


def dropouts(config: Any) -> list[str]:
    """Names of a configuration's dropout probabilities, whichever its family has."""
    values = config.to_dict()
    return sorted(
        name for name, value in values.items()
        if _DROPOUT.search(name) and not isinstance(value, bool) and (value is None or isinstance(value, int | float))
    )  # fmt: skip


def set_dropout(config: Any, value: float) -> None:
    """Set every dropout probability, 0 <= value < 1. Raises RefusalError for a family that has none."""
    found = dropouts(config)
    if not found:
        raise RefusalError(
            f"model.dropout {value}: family {config.model_type!r} has no dropout", hint="Leave model.dropout out"
        )
    for name in found:
        setattr(config, name, value)


def check_unquantised(source: str, config: Any, *, from_scratch: bool) -> None:
    """Raise RefusalError for weights that only a quantisation's own kernels read (GPTQ, AWQ, bitsandbytes, FP8, ...): nothing here has
    such. from_scratch: no weights are read; then the configuration says no longer that they are quantised."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return
    if from_scratch:
        del config.quantization_config
        return
    facts = stated if isinstance(stated, dict) else stated.to_dict()
    method, bits = facts.get("quant_method", "an unnamed method"), facts.get("bits")
    bits = bits or next((n for n in (4, 8) if facts.get(f"load_in_{n}bit")), None)
    raise RefusalError(
        f"model {source!r}: its weights are quantised ({method}{f', {bits} bits' if bits else ''}), for which there is no kernel here",
        hint="Use the model that they were made of, or a GGUF file of it, whose weights are read as float32",
    )


def set_labels(config: Any, head: Head) -> None:
    """Put a head's width, labels and problem type into a configuration, under Hugging Face's names."""
    if head.kind == "span":
        config.num_labels = 2
    elif head.kind in ("sequence", "token") or head.labels:
        names = list(head.labels) or [f"LABEL_{n}" for n in range(head.size)]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: n for n, name in enumerate(names)}
    config.problem_type = head.problem_type


def with_head(config: Any, head: Head) -> Any:
    """A copy of the configuration for this head, in float32."""
    made = copy.deepcopy(config)
    set_labels(made, head)
    # Without it transformers would set the process's default dtype to that of the checkpoint while it builds.
    made.dtype = "float32"
    return made


def causal(config: Any) -> bool:
    """Whether the language model attends to earlier tokens only: what the architecture says, where the family has both kinds."""
    named = (config.architectures or [""])[0]
    if "MaskedLM" in named or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        return True
    return "CausalLM" in named or "LMHeadModel" in named or bool(getattr(config, "is_decoder", False))


def auto_class(config: Any, head: Head) -> str:
    """Name of transformers' Auto class for this head."""
    if head.kind == "vocabulary" and config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    if head.kind == "vocabulary":
        return "AutoModelForCausalLM" if causal(config) else "AutoModelForMaskedLM"
    return _AUTO[head.kind]


def backbone_class(config: Any) -> Any:
    """The family's class without a head. Raises RefusalError where transformers has none."""
    if type(config) not in MODEL_MAPPING:
        raise RefusalError(f"model: family {config.model_type!r} has no backbone that transformers' AutoModel knows")
    found = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found
