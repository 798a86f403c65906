"""What strategy `parallel` refuses, and says: before any process starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from exact import opt_plugin
from spcore.components import Registry, RegistryBridges
from spcore.errors import RefusalError
from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.strategy import Layout, Plan
from spcore_torch.cutting import cut, shrink
from spcore_torch.options import ParallelOptions
from spcore_torch.parallel import Parallel
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions
from tensors.tensor_fakes import Weighted, plan_of
from torch_backend import tiny_bert

REGISTRY = Registry()
LANGUAGE = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
CLASSES = Head("sequence", 3, {"logits": ("sequence", "label")}, labels=("a", "b", "c"))
LLAMA = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 50,
}


def model_of(folder: Path, kind: str, **sizes: Any) -> LanguageModel:
    """A model without weights of its own, with BERT's tokenizer."""
    tiny_bert.write(folder)
    config = transformers.AutoConfig.for_model(kind, vocab_size=101, pad_token_id=0, **sizes)
    config.save_pretrained(folder)
    options = TransformersOptions(source=str(folder), from_scratch=True)
    return TransformersModel(options).open(str(folder))


def plan_for(model: LanguageModel, head: Head = LANGUAGE, size: int = 2, **changes: Any) -> Plan:
    layout = Layout({"data": 1, "pipeline": 1, "context": 1, "tensor": size})
    bridges = RegistryBridges(changes.pop("registry", None) or REGISTRY)
    given = {"optimizer": optimizer_of("adamw"), **changes}
    return replace(plan_of(Weighted()), model=model, head=head, layout=layout, bridges=bridges, **given)


def optimizer_of(name: str) -> Any:
    options = REGISTRY.options_model("optimizer", name)
    assert options is not None
    return REGISTRY.create("optimizer", name, options())


def refused(plan: Plan, **options: Any) -> list[str]:
    given = {"tensor_parallel": plan.layout.axes["tensor"], **options}
    return [str(refusal) for refusal in Parallel(ParallelOptions(**given)).check(plan)]


def test_query_groups_are_refused_only_where_neither_number_divides_the_other(tmp_path: Path) -> None:
    llama = {**LLAMA, "num_attention_heads": 12}
    six = model_of(tmp_path / "six", "llama", **{**llama, "num_key_value_heads": 6, "intermediate_size": 48})
    assert refused(plan_for(six, size=2)) == refused(plan_for(six, size=12)) == []
    assert refused(plan_for(six, size=4)) == [
        "strategy.tensor_parallel 4: the model has 6 heads of keys and values; of the two numbers one must divide the other"
    ]


def test_heads_that_do_not_divide(tmp_path: Path) -> None:
    model = model_of(tmp_path / "six", "llama", **LLAMA)
    assert refused(plan_for(model, size=4)) == [
        "strategy.tensor_parallel 4: the model's 6 attention heads do not divide by it"
    ]


def test_every_rank_has_its_pieces_alone(tmp_path: Path) -> None:
    """A vocabulary of 101 and a width of 50 divide by none; the embedding, tied, is held once."""
    model = model_of(tmp_path / "llama", "llama", **LLAMA, tie_word_embeddings=True)
    plan = plan_for(model, size=3)
    assert refused(plan) == []
    whole = model.build(LANGUAGE)
    cuts = cut(plan, whole, 3, sequence=False)
    rows = [cuts.tensors["model.embed_tokens.weight"].local(rank)[0] for rank in range(3)]
    assert rows == [34, 34, 33]
    assert "lm_head.weight" not in cuts.tensors, "an alias"
    held = 0
    for rank in range(3):
        mine = model.build(LANGUAGE)
        shrink(mine, cuts, rank)
        held += sum(p.numel() for n, p in mine.named_parameters() if n in cuts.tensors)
    assert held == sum(p.numel() for n, p in whole.named_parameters() if n in cuts.tensors)
    left = {n.rpartition(".")[0] for n, _ in whole.named_parameters() if n not in cuts.tensors}
    assert all("norm" in name or name == "lm_head" for name in left), left


def test_a_family_without_a_plan_is_named_and_a_plugin_adds_it(tmp_path: Path) -> None:
    model = model_of(
        tmp_path / "opt",
        "opt",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
    )
    [line] = refused(plan_for(model))
    assert line.startswith("strategy.tensor_parallel 2: unknown family with a tensor-parallel plan 'opt'"), line
    assert "bert" in line, "those that are known"
    assert line.endswith("a plugin adds one as bridge 'tensor-parallel.opt'")
    registry = Registry()
    registry.register(opt_plugin)
    assert refused(plan_for(model, registry=registry)) == []
    assert refused(plan_for(model, registry=registry), sequence_parallel=True) == [
        "strategy.sequence_parallel: inside of the layers of family 'opt' positions cannot be told apart, or are needed together; leave it out"
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sequence_parallel": True}, "strategy.sequence_parallel: it shares positions among the processes of tensor_parallel, which is 1; set strategy.tensor_parallel"),
    ],
)  # fmt: skip
def test_options_that_need_others(options: dict[str, Any], line: str, tmp_path: Path) -> None:
    model = tiny_bert.open_model(tiny_bert.write(tmp_path / "bert"))
    assert refused(plan_for(model, CLASSES, size=1), **options) == [line]


def test_what_works_on_whole_matrices(tmp_path: Path) -> None:
    model = tiny_bert.open_model(tiny_bert.write(tmp_path / "bert"))
    optimizer = optimizer_of("muon")
    assert refused(plan_for(model, CLASSES, optimizer=optimizer)) == [
        "optimizer 'muon': it updates whole matrices, and each process has pieces of them; use adamw, sgd or lion, or strategy=ddp"
    ]
    assert refused(plan_for(model, CLASSES, optimizer=optimizer, size=1)) == []


def test_heads_on_packed_texts_under_sequence_parallelism(tmp_path: Path) -> None:
    model = tiny_bert.open_model(tiny_bert.write(tmp_path / "bert"))
    said = "strategy.sequence_parallel: heads on texts read their rows inside of the last layer"
    for changes, options in (({"pack": 64}, {}), ({}, {"flatten": "always"})):
        [line] = refused(plan_for(model, CLASSES, **changes), sequence_parallel=True, **options)
        assert line.startswith(said)
    assert refused(plan_for(model, CLASSES), sequence_parallel=True) == []


def test_too_few_rows_in_a_step(tmp_path: Path) -> None:
    model = tiny_bert.open_model(tiny_bert.write(tmp_path / "bert"))
    plan = replace(plan_for(model, CLASSES, global_batch_size=2), layout=Layout({"data": 3, "tensor": 2}))
    assert refused(plan) == [
        "train.global_batch_size 2: 3 groups of processes share a step, some would have nothing to do; make it 3 or more, or start fewer processes"
    ]


@pytest.mark.parametrize(
    ("options", "processes", "axes"),
    [
        ({"tensor_parallel": 2}, 2, (1, 2)),
        ({"tensor_parallel": 2}, 6, (3, 2)),
        ({"tensor_parallel": 2, "data_parallel": 2}, 4, (2, 2)),
        ({}, 3, (3, 1)),
    ],
)
def test_layouts(options: dict[str, Any], processes: int, axes: tuple[int, int]) -> None:
    layout = Parallel(ParallelOptions(**options)).layout(processes)
    assert list(layout.axes) == ["data", "pipeline", "context", "tensor"]
    assert (layout.axes["data"], layout.axes["tensor"]) == axes
    places = [layout.place(rank, rank) for rank in range(processes)]
    assert [place.data_rank for place in places] == [rank // axes[1] for rank in range(processes)], "tensor innermost"


@pytest.mark.parametrize(
    ("options", "processes", "line"),
    [
        ({"tensor_parallel": 4}, 6, "strategy.tensor_parallel 4 does not give 6 processes; start 4 (launch.processes), or change the sizes"),
        (
            {"tensor_parallel": 2, "data_parallel": 2}, 2,
            "strategy.data_parallel 2 * strategy.tensor_parallel 2 does not give 2 processes; start 4 (launch.processes), or change the sizes",
        ),
    ],
)  # fmt: skip
def test_processes_that_do_not_fit(options: dict[str, Any], processes: int, line: str) -> None:
    with pytest.raises(RefusalError) as caught:
        Parallel(ParallelOptions(**options)).layout(processes)
    assert str(caught.value) == line


def test_a_module_is_cut_without_storage(tmp_path: Path) -> None:
    model = model_of(tmp_path / "llama", "llama", **LLAMA)
    module = model.build(LANGUAGE)
    shrink(module, cut(plan_for(model), module, 2, sequence=False), 1)
    assert all(p.device == torch.device("meta") for p in module.parameters())
