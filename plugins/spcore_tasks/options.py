"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

Value = StrictStr | StrictInt | StrictFloat
Metric = Literal[
    "accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation", "pearson", "spearman", "pearson_spearman", "mse"
]


class TextClassificationOptions(BaseModel):
    """Task `text-classification`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = Field(
        "auto",
        description="auto: several labels for a column of lists; a number for a column of fractions or of more than 50 different "
        "numbers; else one label",
    )
    labels: list[Value] | dict[Value, StrictStr] | None = Field(
        None,
        description="names of the labels in the order of their ids, or a mapping from the data's values to names; null: as the "
        "data says",
    )
    class_weights: Literal["balanced"] | list[float] | dict[Value, float] | None = Field(
        None,
        description="what a row counts in the loss, by its label (1 = once): a number a label, or a mapping from names (1 for "
        "those left out); balanced: rows / (labels * rows of the label); null: all alike",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the target's probability that is spread over all labels; a fraction",
        json_schema_extra={"known_as": ["label_smoothing_factor"]},
    )
    metric: Metric | list[Metric] | None = Field(
        None,
        description="the metric that decides which model is the best, or several, the first deciding; null: accuracy, f1_micro "
        "for several labels, pearson_spearman for numbers",
    )


class TokenClassificationOptions(BaseModel):
    """Task `token-classification`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    labels: list[Value] | dict[Value, StrictStr] | None = Field(
        None,
        description="names of the tags in the order of their ids, or a mapping from the data's values to names; null: as the data says",
    )
    scheme: Literal["auto", "bio", "bioes", "iob1", "raw"] = Field(
        "auto",
        description="what tags say of entities: bio (IOB2: each begins with B-), bioes (ends and single words too; BILOU and BMES are read "
        "so), iob1 (B- only between two of one type), raw (no entities: parts of speech); auto: by the tags",
    )
    subtokens: Literal["first", "all"] = Field(
        "first",
        description="tokens of a word that learn its tag: the first, or all, after a B- those that follow its I-. The first alone is "
        "evaluated",
        json_schema_extra={"known_as": ["label_all_tokens"]},
    )
    strict: StrictBool = Field(
        False,
        description="only entities that are spelt as the scheme has it count, as seqeval's strict mode; false: as conlleval",
    )
    metric: StrictStr | list[StrictStr] | None = Field(
        None,
        description="the metric that decides which model is the best, or several, the first deciding; null: f1, of raw tags accuracy",
    )


class MultipleChoiceOptions(BaseModel):
    """Task `multiple-choice`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first: Literal[0, 1] | None = Field(
        None, description="number of the first choice in the labels; null: 1 where no label is 0 and some are 1, else 0"
    )


class SentenceEmbeddingOptions(BaseModel):
    """Task `sentence-embedding`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: Literal["auto", "contrastive", "cosent"] = Field(
        "auto",
        description="contrastive: of all second texts of a global batch a text's own is the nearest (InfoNCE); cosent: pairs are in the order of "
        "their scores; auto: cosent where the data has a score",
    )
    pooling: Literal["mean", "cls", "last"] = Field(
        "mean",
        description="a text's vector: the mean of its tokens' hidden states, the first token's, or the last one's",
    )
    similarity: Literal["cosine", "dot"] = Field(
        "cosine", description="cosine: vectors have length 1, also in answers; dot: their product as they are"
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="similarities are divided by it; null: 0.05, for dot 1",
        json_schema_extra={"known_as": ["tau"]},
    )
    symmetric: StrictBool = Field(
        False,
        description="contrastive: the mean with the loss of the other direction, of all texts a second text's own",
    )


class CausalLMOptions(BaseModel):
    """Task `causal-lm`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    end_of_text: StrictBool | StrictStr = Field(
        True,
        description="put the tokenizer's end token (eos) after each text, where it is not there already; a text: that token in its place; "
        "false: none",
    )
    begin_of_text: Literal["auto"] | StrictBool = Field(
        "auto", description="put the tokenizer's first token (bos) before each text; auto: if the tokenizer itself does"
    )
    look_ahead: bool = Field(
        True,
        description="a window also predicts the token after it, so that none is lost between two; false: blocks that do not, as many "
        "published perplexities have them",
    )
    shift: bool = Field(
        False,
        description="in training, windows within a long text begin elsewhere each epoch, by up to half a window; an evaluation's stay. "
        "Their features take twice the space",
    )
    min_tail: int = Field(
        1,
        ge=1,
        lt=2**31,
        description="a window of fewer targets, as the end of a text may leave one, is dropped and its tokens are counted; 1: none is",
    )


class MaskedLMOptions(BaseModel):
    """Task `masked-lm`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    masking: Literal["token", "whole-word", "span"] = Field(
        "token",
        description="what is chosen: single tokens (BERT), whole words, or spans of words with geometric lengths (SpanBERT)",
    )
    probability: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of a window's tokens that are chosen, one at least",
        json_schema_extra={"known_as": ["mlm_probability", "masking_probability", "mask_probability"]},
    )
    mask: float = Field(0.8, ge=0, le=1, description="share of the chosen tokens that become the mask token")
    random: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the chosen tokens that become a random token; the others stay as they are",
    )
    span_stop: float = Field(
        0.2,
        gt=0,
        le=1,
        description="masking span: probability that a span ends after a word; the mean length is about 1 / it",
    )
    span_most: int = Field(10, ge=1, lt=1000, description="masking span: words of a span at most")

    @model_validator(mode="after")
    def _shares(self) -> MaskedLMOptions:
        if self.mask + self.random > 1:
            raise ValueError(f"mask {self.mask} and random {self.random}: shares add up to 1 at most")
        return self


class DenoisingOptions(BaseModel):
    """Task `denoising`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    density: float = Field(0.15, gt=0, lt=1, description="share of a text's tokens that are taken out")
    mean_span: float = Field(3.0, ge=1, lt=1000, description="mean length of what is taken out in one piece, in tokens")
    sentinel: StrictStr = Field(
        "<extra_id_{}>",
        pattern=r"^[^{}]*\{\}[^{}]*$",
        description="names of the sentinels in the vocabulary; {} is their number, from 0",
    )


AnswerMetric = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match"]


class AnswerOptions(BaseModel):
    """How `seq2seq` generates answers, where it is evaluated and predicts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="tokens of an answer at most; null: as task.max_target_length",
        json_schema_extra={"known_as": ["generation_max_length", "max_length"]},
    )
    beams: int = Field(
        1,
        ge=1,
        le=1024,
        description="hypotheses of a beam search; 1: greedy, or drawn at a temperature",
        json_schema_extra={"known_as": ["num_beams", "generation_num_beams", "beam_size"]},
    )
    length_penalty: float = Field(1.0, description="exponent of the length that a beam's score is divided by")
    early_stopping: StrictBool = Field(
        False, description="end a beam search with the first `beams` finished hypotheses"
    )
    temperature: float = Field(0.0, ge=0, description="of draws; 0: the likeliest token")
    top_k: int = Field(0, ge=0, lt=2**31, description="draw from so many likeliest tokens; 0: from all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the fewest tokens that hold so much of the probability"
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="divides positive and multiplies negative logits of tokens that are there already; 1: none",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of draws")


class Seq2SeqOptions(BaseModel):
    """Task `seq2seq`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: StrictStr | None = Field(
        None,
        description="what the model reads, {source} being the row's text ('translate English to German: {source}'); {context}, {pair}, "
        "{source_language} and {target_language} are its columns of these names; null: the text alone, a context below it, for "
        "encoder-decoders; a decoder needs one",
        json_schema_extra={"known_as": ["prefix", "source_prefix", "template", "prompt_template"]},
    )
    max_target_length: int | None = Field(
        None,
        ge=2,
        lt=2**31,
        description="tokens of a target at most, its end token among them; longer ones are cut for the loss, and counted; null: 128, or what "
        "the model allows, a decoder half of data.max_length",
        json_schema_extra={"known_as": ["max_answer_length", "max_output_length", "val_max_target_length"]},
    )
    generate: AnswerOptions = Field(AnswerOptions.model_validate({}), description="how answers are generated")
    metric: AnswerMetric | list[AnswerMetric] | None = Field(
        None,
        description="the metric that decides which model is the best, or several, the first deciding; null: bleu",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a label's probability that is spread over the vocabulary in training; a fraction",
        json_schema_extra={"known_as": ["label_smoothing_factor"]},
    )
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = Field(
        "13a",
        description="sacreBLEU's tokenizer: 13a for most languages, zh for Chinese, char for other scripts without spaces",
    )
    rouge_tokenizer: Literal["default", "13a", "intl", "zh", "char"] = Field(
        "default",
        description="words of ROUGE: rouge-score's own, which knows a to z and digits alone, or sacreBLEU's, lower-cased, for other languages",
    )
    rouge_stemmer: StrictBool = Field(
        False, description="ROUGE compares words by their Porter stems; English, rouge_tokenizer default"
    )

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        if prompt is not None and prompt.count("{source}") != 1:
            raise ValueError(f"{prompt!r} has {{source}} {prompt.count('{source}')} times; expected once")
        return prompt

    @model_validator(mode="after")
    def _stems(self) -> Seq2SeqOptions:
        if self.rouge_stemmer and self.rouge_tokenizer != "default":
            raise ValueError(
                f"rouge_stemmer is for rouge_tokenizer default, and that is {self.rouge_tokenizer}; leave one out"
            )
        return self


class QuestionAnsweringOptions(BaseModel):
    """Task `question-answering`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    no_answer: Literal["auto"] | StrictBool = Field(
        "auto",
        description="whether a question may have no answer, as in SQuAD 2.0; auto: if a column is_impossible says so of some row",
        json_schema_extra={"known_as": ["version_2_with_negative", "handle_impossible_answer", "null_answers"]},
    )
    null_threshold: float = Field(
        0.0,
        description="no_answer: nothing is answered where the score of no answer is above the best span's by more than this; logits. An "
        "evaluation finds what suits its rows best (best_f1_threshold)",
        json_schema_extra={"known_as": ["null_score_diff_threshold", "no_answer_threshold"]},
    )
    max_answer_length: int = Field(
        30, ge=1, lt=2**31, description="tokens of an answer at most, where answers are looked for",
        json_schema_extra={"known_as": ["max_answer_len"]},
    )  # fmt: skip
    n_best: int = Field(
        20, ge=1, le=10_000, description="candidates that are kept of a window, and of a question",
        json_schema_extra={"known_as": ["n_best_size"]},
    )  # fmt: skip
    answers: int = Field(
        1, ge=1, le=10_000, description="answers that predict gives, the best first; over 1: the further ones under `others`",
        json_schema_extra={"known_as": ["top_k", "topk"]},
    )  # fmt: skip

    @model_validator(mode="after")
    def _candidates(self) -> QuestionAnsweringOptions:
        if self.answers > self.n_best + 1:
            raise ValueError(
                f"answers {self.answers}: n_best {self.n_best} keeps no more candidates, and no answer; raise n_best"
            )
        return self
