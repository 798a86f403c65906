"""Commands that the talking model is asked by, in a shell where it is installed."""

from __future__ import annotations

import sys

CHAT = [sys.executable, "-m", "slimpajama", "chat", "--runtime", "talker"]
ENDLESS = ("talker:endless", "--max-new-tokens", "10000000")
"""A model without limits, and an answer that somebody must stop."""
