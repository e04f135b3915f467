"""Evaluation: metrics with their empty-mask rules said, runs over labelled data."""
