"""Weights that ship with the package, each beside a JSON file with its config, checksum and history."""
