"""Thin launchers: each parses its arguments and calls the library."""
