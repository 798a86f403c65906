"""What this plugin offers. Nothing heavy is imported here: targets are imported on first use."""

from spcore import Component, hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components():
    """A task, a data set, a precision policy."""
    return [
        Component("task", "weather", "weather_words.task:Weather", "Which weather a sentence is about"),
        Component("dataset", "weather", "weather_words.data:Sentences", "Sentences about sun, rain and snow"),
        Component("precision", "weather-bf16", "weather_words.data:POLICY", "bfloat16 products, else float32"),
    ]
