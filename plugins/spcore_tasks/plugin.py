"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Tasks on texts, and objectives over the vocabulary."""
    return [
        Component(
            "task", "text-classification", "spcore_tasks.text_classification:TextClassification",
            "A label, several labels or a number for a text or a pair of texts",
            options="spcore_tasks.options:TextClassificationOptions", aliases=("sequence-classification", "sentiment"),
        ),
        Component(
            "task", "token-classification", "spcore_tasks.token_classification:TokenClassification",
            "A tag for each word: entities, parts of speech",
            options="spcore_tasks.options:TokenClassificationOptions", aliases=("ner", "pos", "tagging"),
        ),
        Component(
            "task", "multiple-choice", "spcore_tasks.multiple_choice:MultipleChoice", "The right one of several answers or endings",
            options="spcore_tasks.options:MultipleChoiceOptions", aliases=("swag", "copa"),
        ),
        Component(
            "task", "sentence-embedding", "spcore_tasks.sentence_embedding:SentenceEmbedding",
            "Vectors of texts, near where they mean the same", options="spcore_tasks.options:SentenceEmbeddingOptions",
            aliases=("sentence-similarity", "embedding", "contrastive"),
        ),
        Component(
            "task", "causal-lm", "spcore_tasks.causal_lm:CausalLM", "The next token of a text, by a decoder",
            options="spcore_tasks.options:CausalLMOptions", aliases=("clm", "language-modeling", "next-token"),
        ),
        Component(
            "task", "masked-lm", "spcore_tasks.masked_lm:MaskedLM", "Tokens hidden in a text, by an encoder",
            options="spcore_tasks.options:MaskedLMOptions", aliases=("mlm", "masked-language-modeling"),
        ),
        Component(
            "task", "denoising", "spcore_tasks.denoising:Denoising", "Spans taken out of a text, by an encoder-decoder",
            options="spcore_tasks.options:DenoisingOptions", aliases=("span-corruption",),
        ),
        Component(
            "task", "seq2seq", "spcore_tasks.seq2seq:Seq2Seq", "A text for a text: translation, summaries, answers",
            options="spcore_tasks.options:Seq2SeqOptions",
            aliases=("text2text", "text2text-generation", "translation", "summarization"),
        ),
        Component(
            "task", "question-answering", "spcore_tasks.question_answering:QuestionAnswering",
            "The span of a context that answers a question", options="spcore_tasks.options:QuestionAnsweringOptions",
            aliases=("qa", "extractive-qa", "squad"),
        ),
    ]  # fmt: skip
