"""Models and tokenizers from the Hub or a folder, by `transformers`."""
