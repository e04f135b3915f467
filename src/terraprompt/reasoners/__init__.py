"""Reasoners: language models that look at an image and say where to draw."""
