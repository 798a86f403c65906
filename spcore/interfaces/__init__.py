"""The contracts: one file for each kind of part. See the module of a contract for who calls it, when and where.

Nothing here imports torch. Modules that speak numpy arrays name them in annotations only.
"""
