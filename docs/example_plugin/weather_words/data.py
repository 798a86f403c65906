"""A data set made of words, and a precision policy."""

from spcore.interfaces.dataset import Column, Dataset, Schema, Source
from spcore.interfaces.precision import PrecisionPolicy

POLICY = PrecisionPolicy("weather-bf16", compute="bfloat16")
WORDS = {"sun": ("bright", "clear", "warm"), "rain": ("wet", "grey", "pouring"), "snow": ("white", "frozen", "icy")}
PLACES = ("the coast", "the hills", "the old town", "the airport", "our street", "the valley")


class Sentences(Dataset):
    """54 sentences; one split."""

    def open(self, split):
        """The one split, whatever it is called."""
        return SentenceSource()


class SentenceSource(Source):
    """Rows in memory."""

    def __init__(self):
        self._rows = [
            {"text": f"A {word} morning over {place}.", "label": label}
            for label, words in WORDS.items()
            for word in words
            for place in PLACES
        ]
        self.length, self.fingerprint = len(self._rows), "weather-sentences-1"
        labels = tuple(WORDS)
        self.schema = Schema(
            {"text": Column("text"), "label": Column("text", labels, dict.fromkeys(labels, 18))}, "weather"
        )

    def read(self, ids):
        """Rows by position."""
        return [self._rows[i] for i in ids]

    def stream(self, shard, shards, skip):
        """Every `shards`th row."""
        yield from self._rows[shard::shards][skip:]
