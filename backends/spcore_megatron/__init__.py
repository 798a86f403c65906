"""megatron-core, behind strategies."""
