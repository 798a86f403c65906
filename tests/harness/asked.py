"""A tiny Llama in a folder, with the tokenizer of a real one in small, and tasks over a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

POSITIONS = 96
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOWNS = [
    ("France", "Paris"),
    ("Japan", "Tokyo"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Egypt", "Cairo"),
    ("Norway", "Oslo"),
]
_TASKS = {
    "capitals": {
        "output_type": "multiple_choice", "doc_to_text": "What is the capital of {{country}}? ", "doc_to_choice": "{{choices}}",
        "doc_to_target": "label", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "letters": {
        "output_type": "multiple_choice", "doc_to_text": "{{country}}: {{choices}}\nAnswer:", "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": "label", "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until", "doc_to_text": "The capital of {{country}} is", "doc_to_target": "{{capital}}",
        "generation_kwargs": {"until": ["a", "zz"], "max_gen_toks": 14, "do_sample": False, "top_p": 0.9},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}  # fmt: skip


def save_llama(folder: Path) -> str:
    """Weights far from zero; texts begin with <s>; 96 positions."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"The capital of {land} is {town}." for land, town in TOWNS], trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_tasks(folder: Path, **more: Any) -> str:
    """Tasks capitals, letters, rolling, written, and group `all`; more: fields of every task."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n, (land, town) in enumerate(TOWNS):
        wrong = [TOWNS[(n + k) % len(TOWNS)][1] for k in (1, 2)]
        text = f"The capital of {land} is {town}, a town on a river. " * (1 + 2 * (n % 3))  # up to twice the positions
        choices = [*wrong[: n % 3], town, *wrong[n % 3 :]]
        rows.append({"country": land, "capital": town, "choices": choices, "label": n % 3, "text": text})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "fewshot_split": "test",
    }
    for name, task in _TASKS.items():
        own = {"task": name, **shared, **task, "metadata": {"version": 2}, **more}
        (folder / f"{name}.yaml").write_text(json.dumps(own))
    aggregate = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "choosing", "task": ["capitals", "letters"], "aggregate_metric_list": aggregate}
    (folder / "choosing.yaml").write_text(json.dumps(group))
    return str(folder)
