"""Layer searches, for `python -m experiments.search --config configs/search/<name>.py`."""
