"""What every torch-based engine needs once: a base engine over one primitive, seeded initialisation, loss totals, `Ops` for whole
and vocabulary-sharded outputs, flat packs, RNG capture, safetensors files. Public, for plugin authors. Imports torch; nothing
else in spcore imports it at module level.
"""
