"""Sweeps: `get_config` gives what all runs share, `sweep` what each of them overrides."""
