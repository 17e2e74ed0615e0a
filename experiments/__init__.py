"""Thin launchers: each parses its arguments and calls the library."""

from experiments.startup import is_launcher, prepare_process

if is_launcher():
    prepare_process()
