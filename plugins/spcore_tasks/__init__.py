"""Tasks: what is learnt from text."""
