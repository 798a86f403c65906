"""The tasks of EleutherAI's harness, lm-eval, for any model that the core can run."""
