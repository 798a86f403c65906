"""Constraints on what is generated, over llguidance. No torch."""
