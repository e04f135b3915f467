"""Engines: interchangeable systems over one flow."""
