"""Parts of SAM that are not in transformers."""
