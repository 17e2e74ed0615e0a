"""Configurations: one short file per training run over the shared blocks of `recipes.py`."""
