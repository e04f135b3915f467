"""What was encoded is kept, within bounds, and on disk if asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_engines import BoxFilterEngine
from terraprompt.engines.base import Embedding
from terraprompt.errors import OutputError
from terraprompt.flow.embedding_cache import EmbeddingCache, PackingEngine, cache_key


def embedding(nbytes: int = 10, value: int = 0) -> Embedding:
    return Embedding((2, 3), np.full((2, 3, 3), value, np.uint8), nbytes)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60), st.booleans()), max_size=40))
def test_memory_is_bounded_and_the_least_recently_used_goes_first(steps):
    cache, limit = EmbeddingCache(100), 100
    model: dict[str, Embedding] = {}  # in order of use
    for key, size, put in steps:
        if put:
            item = model.pop(key, None)
            item = embedding(size)
            model[key] = item
            cache.put(key, item)
            while sum(e.nbytes for e in model.values()) > limit:
                del model[next(iter(model))]
        else:
            found = cache.get(key)
            assert found is model.get(key)
            if found is not None:
                model[key] = model.pop(key)
        assert cache.nbytes == sum(e.nbytes for e in model.values()) <= limit
        assert len(cache) == len(model)
        assert all((key in cache) == (key in model) for key in "abcdef")


def test_one_that_is_larger_than_the_bound_is_not_kept_nor_drives_others_out():
    cache = EmbeddingCache(100)
    cache.put("a", embedding(60))
    cache.put("b", embedding(101))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    cache.put("c", embedding(100))
    assert (len(cache), cache.nbytes) == (1, 100)


def test_a_cache_without_bytes_keeps_nothing():
    cache = EmbeddingCache(0)
    cache.put("a", embedding(1))
    assert cache.get("a") is None
    assert "a" not in cache


def test_the_name_of_an_embedding_follows_everything_it_depends_on():
    parts = {"window": (0, 0, 5, 5), "model": ("nano", "1", "", {"a": 1, "b": 2}), "bands": (1, 2, 3)}
    shuffled = {"bands": (1, 2, 3), "model": ("nano", "1", "", {"b": 2, "a": 1}), "window": (0, 0, 5, 5)}
    assert cache_key(**parts) == cache_key(**shuffled)
    assert len(cache_key(**parts)) == 64
    others = [parts | {"bands": (3, 2, 1)}, parts | {"window": (0, 0, 5, 6)}, parts | {"model": ("nano", "2", "", {})}]
    assert len({cache_key(**p) for p in [parts, *others]}) == 4


# On disk


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def disk(folder, max_bytes: int = 0) -> EmbeddingCache:
    return EmbeddingCache(max_bytes, folder=folder, engine=BoxFilterEngine())


def test_only_an_engine_that_packs_can_keep_on_disk():
    assert isinstance(BoxFilterEngine(), PackingEngine)
    assert not isinstance(object(), PackingEngine)


def test_what_memory_drops_the_disk_still_has(folder):
    cache = disk(folder, 20)
    for value, key in enumerate("abc"):
        cache.put(key, embedding(18, value))
    assert len(cache) == 1
    for value, key in enumerate("abc"):
        assert key in cache
        found = cache.get(key)
        assert found is not None
        assert found.size == (2, 3)
        np.testing.assert_array_equal(found.data, np.full((2, 3, 3), value))
    assert cache.nbytes == 18
    assert disk(folder).get("b") is not None
    assert disk(folder).get("d") is None
    assert sorted(p.name for p in folder.iterdir()) == ["a.npz", "b.npz", "c.npz"]


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-30], lambda b: b"x" * len(b)])
def test_a_damaged_entry_is_told_and_replaced(folder, caplog, damage):
    cache = disk(folder)
    cache.put("a", embedding())
    entry = folder / "a.npz"
    entry.write_bytes(damage(entry.read_bytes()))
    assert cache.get("a") is None
    assert "damaged" in caplog.text
    cache.put("a", embedding(value=7))
    assert cache.get("a").data.max() == 7


def test_a_file_that_holds_something_else_is_damage_too(folder):
    cache = disk(folder)
    np.savez(folder / "a.npz", image=np.zeros(3))
    np.savez(folder / "b.npz", _size=np.array([{}]))
    assert cache.get("a") is None
    assert cache.get("b") is None


def test_a_lost_folder_is_an_error_with_advice(folder):
    cache = disk(folder)
    folder.rmdir()
    with pytest.raises(OutputError, match=r"cannot be written.*leave out the cache folder"):
        cache.put("a", embedding())


def test_a_full_disk_leaves_no_half_entry(folder, monkeypatch):
    cache = disk(folder)
    cache.put("a", embedding(value=1))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left"):
        cache.put("a", embedding(value=2))
    assert [p.name for p in folder.iterdir()] == ["a.npz"]
    assert cache.get("a").data.max() == 1
