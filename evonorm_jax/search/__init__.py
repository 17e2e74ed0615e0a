"""The layer search (paper, section 3): from random graphs to a layer that trains by its name.

| room | holds |
|---|---|
| `evolution/` | what is proposed: the space, mutation, regularized evolution and random search |
| `engine/` | what a candidate is worth: filters, proxy training in anchor networks, stability |
| `run/` | a search at work: driver, workers on a machine or a cluster, ledger, reranking |
| `report/` | figures and tables from the ledgers of searches |

`run/` stands on `evolution/` and `engine/`, `report/` on `run/`, and all of them on
`evonorm_jax.graphs` and `evonorm_jax.models`.
`docs/layer_search.md` tells how to run a search and what was measured.
"""
