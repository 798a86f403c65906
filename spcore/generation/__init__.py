"""The one decoding loop, over anything that has the ability `Decodes` (an engine or a runner). Pure numpy.

`loop` runs requests, `choosing` chooses tokens, `beams` searches, `slots` shares what prompts have in common, `checks` refuses.
"""

from __future__ import annotations

from spcore.generation.choosing import Chooser, address, draw
from spcore.generation.loop import PREFILL_TOKENS, DecodingLoop

__all__ = ["PREFILL_TOKENS", "Chooser", "DecodingLoop", "address", "draw"]
