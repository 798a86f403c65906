"""Options of this package's components."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["bpe", "wordpiece", "unigram", "characters", "bytes"]
Style = Literal["gpt", "bert", "t5"]


class TokenizerOptions(BaseModel):
    """What `slimpajama tokenizer train` makes, and a recipe's `model.tokenizer` where it names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        description="bpe and unigram of bytes, wordpiece as BERT's, characters, or bytes; all but wordpiece give any text back"
    )
    vocabulary_size: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="tokens in all, special ones included; null for characters: all that occur; bytes: set",
    )
    style: Style | None = Field(
        None,
        description="special tokens, and which of them stand round a text, as that family has them; null: bert for wordpiece, else gpt",
    )
    special: dict[str, str] = Field(
        {},
        description="role (pad, bos, eos, unk, cls, sep, mask) -> token, beside the style's; an empty one is left out",
    )
    sentinels: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="tokens <extra_id_N>, which denoising needs; null: 100 in style t5, else none",
    )
    lowercase: bool = Field(False, description="lower-case texts first, which cannot be undone")
    normalise: Literal["nfc", "nfkc"] | None = Field(
        None, description="Unicode normal form that texts are brought to first"
    )
    min_frequency: int | None = Field(
        None, ge=1, description="times that a merge (bpe, wordpiece; null: 2) or a character (null: 1) must occur"
    )
    byte_fallback: bool = Field(
        True, description="kind characters: write others than the vocabulary's as bytes; false: as the unknown token"
    )


class TransformersOptions(BaseModel):
    """Model source `transformers`. From `source`, or from nothing by `architecture` or `preset`; the sizes go with the latter."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(
        "", description="a name on the Hub, a folder, or a GGUF file; empty: the model is made from nothing"
    )
    revision: str | None = Field(
        None,
        description="branch, tag or commit on the Hub, of the tokenizer where there is no source; null: the default branch",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="every dropout probability of the model, 0 to 1; null: as its configuration says"
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description="how attention is computed; auto: by segments where the family is known, else transformers' choice",
    )
    from_scratch: bool = Field(
        False, description="true: take configuration and tokenizer only, and initialise all weights anew"
    )
    architecture: str | None = Field(
        None, description="family of a model made from nothing, by transformers' name: llama, gpt2, bert, t5, ..."
    )
    preset: str | None = Field(
        None,
        description="name of a known architecture with its sizes: gpt2-small, bert-mini, ...; sizes given beside it win",
    )
    tokenizer: str | TokenizerOptions | None = Field(
        None,
        description="of a model whose weights are new: a folder or a Hub name; bytes: one that needs no training; or what `slimpajama tokenizer "
        "train` takes (kind, vocabulary_size, ...): it is made of the training texts",
    )
    chat_template: str | None = Field(
        None,
        description="how a conversation is written, in place of the tokenizer's own: chatml, plain, a Jinja file or its text; saved with the model",
    )
    hidden_size: int | None = Field(None, ge=1, description="width of the hidden states; null: the family's default")
    layers: int | None = Field(
        None, ge=1, description="layers, of an encoder-decoder in each half; null: the family's default"
    )
    decoder_layers: int | None = Field(
        None, ge=1, description="layers of an encoder-decoder's second half; null: as `layers`"
    )
    heads: int | None = Field(None, ge=1, description="attention heads of a layer; null: the family's default")
    key_value_heads: int | None = Field(
        None,
        ge=1,
        description="heads of keys and values, which divide `heads`; null: as many as `heads` where that is given",
    )
    head_size: int | None = Field(
        None, ge=1, description="width of a head; null: hidden_size / heads where one of them is given"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="width of the feed-forward layers; null: in the family's proportion to hidden_size"
    )
    positions: int | None = Field(None, ge=1, description="tokens of a text at most; null: the family's default")
    tie_embeddings: bool | None = Field(
        None, description="whether output and input embeddings are one tensor; null: the family's default"
    )
    vocabulary_multiple: int = Field(
        1, ge=1, description="the tokenizer's size is rounded up to a multiple of it (64 suits GPUs)"
    )
    config: dict[str, Any] = Field(
        {}, description="further keys of the family's own configuration, by transformers' names (rope_parameters, ...)"
    )
