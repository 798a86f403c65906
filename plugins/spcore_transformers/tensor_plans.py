"""Bridges "tensor-parallel.FAMILY": how the layers of families without a `base_model_tp_plan` are cut. Verified against one process."""

from __future__ import annotations

from spcore.interfaces.bridge import Cut, TensorPlan

_HEADS, _JOIN = Cut("column", "head"), Cut("row", "head")
_WIDEN, _NARROW = Cut("column"), Cut("row")

BERT = TensorPlan(
    {
        **{f"encoder.layer.*.attention.self.{name}": _HEADS for name in ("query", "key", "value")},
        "encoder.layer.*.attention.output.dense": _JOIN,
        "encoder.layer.*.intermediate.dense": _WIDEN,
        "encoder.layer.*.output.dense": _NARROW,
    }
)
"""BERT, RoBERTa, XLM-RoBERTa, ELECTRA."""

DISTILBERT = TensorPlan(
    {
        **{f"transformer.layer.*.attention.{name}": _HEADS for name in ("q_lin", "k_lin", "v_lin")},
        "transformer.layer.*.attention.out_lin": _JOIN,
        "transformer.layer.*.ffn.lin1": _WIDEN,
        "transformer.layer.*.ffn.lin2": _NARROW,
    }
)

MODERNBERT = TensorPlan(
    {
        "layers.*.attn.Wqkv": Cut("column", "head", parts=3),
        "layers.*.attn.Wo": _JOIN,
        "layers.*.mlp.Wi": Cut("column", parts=2),
        "layers.*.mlp.Wo": _NARROW,
    }
)
"""Query, key and value in one matrix, and so input and gate."""

GPT2 = TensorPlan(
    {
        "h.*.attn.c_attn": Cut("column", "head", parts=3, transposed=True),
        "h.*.attn.c_proj": Cut("row", "head", transposed=True),
        "h.*.mlp.c_fc": Cut("column", transposed=True),
        "h.*.mlp.c_proj": Cut("row", transposed=True),
    },
    divided={"h.*.attn": ("split_size",)},
)
"""Its Conv1D keeps weights as [in, out]."""

_T5_ATTENTION = [
    f"{stack}.block.*.layer.{n}.{kind}"
    for stack, kinds in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"]))
    for n, kind in enumerate(kinds)
]
_T5_MLP = ["encoder.block.*.layer.1.DenseReluDense", "decoder.block.*.layer.2.DenseReluDense"]
T5 = TensorPlan(
    {
        **{f"{path}.{name}": _HEADS for path in _T5_ATTENTION for name in ("q", "k", "v")},
        **{f"{path}.o": _JOIN for path in _T5_ATTENTION},
        **{f"{path}.relative_attention_bias": Cut("table", "head") for path in _T5_ATTENTION},
        **{f"{path}.{name}": _WIDEN for path in _T5_MLP for name in ("wi", "wi_0", "wi_1")},
        **{f"{path}.wo": _NARROW for path in _T5_MLP},
    },
    divided=dict.fromkeys(_T5_ATTENTION, ("n_heads",)),
)
"""The bias by distance is one number a head, in the first layer of a stack."""

_BART_ATTENTION = ["encoder.layers.*.self_attn", "decoder.layers.*.self_attn", "decoder.layers.*.encoder_attn"]
_BART_LAYERS = ["encoder.layers.*", "decoder.layers.*"]
BART = TensorPlan(
    {
        **{f"{path}.{name}": _HEADS for path in _BART_ATTENTION for name in ("q_proj", "k_proj", "v_proj")},
        **{f"{path}.out_proj": _JOIN for path in _BART_ATTENTION},
        **{f"{path}.fc1": _WIDEN for path in _BART_LAYERS},
        **{f"{path}.fc2": _NARROW for path in _BART_LAYERS},
    },
    vocabulary=("final_logits_bias",),
)
"""BART, Marian."""
