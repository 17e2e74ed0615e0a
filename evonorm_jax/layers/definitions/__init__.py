"""Each layer once, without a framework: its fields, what it keeps and how it is computed.

A definition holds no arrays. `evonorm_jax.layers` makes Linen modules of the definitions, and
`evonorm_jax.nnx` makes NNX modules of them.

* `base.py`: what all layers share.
* `evonorm.py`, `baselines.py`: the layers.
"""
