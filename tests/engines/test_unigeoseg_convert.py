"""Released checkpoints into ours: every tensor accounted for, damage refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from released import released_state, tiny_model, write_released, write_tokenizer
from terraprompt.engines.checkpoint import load_converted
from terraprompt.engines.convert import convert
from terraprompt.errors import CheckpointError, OutputError
from terraprompt.io.hub import weights_folder
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.models.unigeoseg.layout import DEAD, account, config_of, official_layout, split, to_official
from unigeoseg_golden import golden_config, golden_model, golden_tensor, official_names, official_shapes

TINY = preset("tiny")


@pytest.fixture(scope="module")
def model() -> UniGeoSeg:
    return tiny_model()


@pytest.fixture
def state(model: UniGeoSeg) -> dict[str, Tensor]:
    return released_state(model)


# the whole list of the release


@pytest.mark.parametrize(("connector", "count"), [("SparseConv_1", 958), ("MSCC", 959)])
def test_every_released_tensor_has_its_place(connector: str, count: int) -> None:
    shapes = official_shapes(connector)
    assert len(shapes) == count
    config = config_of(shapes, preset("unigeoseg-official"))
    assert config.connector is not None
    assert config.connector.kind == ("mscc" if connector == "MSCC" else "sparseconv")
    books = account(shapes, config)
    assert (books.unknown, books.missing, books.misshapen) == ((), (), ())
    status = {row["name"]: row["status"] for row in official_names(connector)}
    assert {name for name in books.dropped if status[name] != "buffer"} == set(DEAD)
    assert {name for name, kind in status.items() if not kind.startswith("used")} == set(books.dropped)
    assert len(books.used) + len(books.dropped) == count
    ours = [name for source in official_layout(config).values() for name in source.ours]
    assert len(ours) == len(set(ours))


def test_the_official_preset_is_what_the_list_says() -> None:
    assert config_of(official_shapes(), preset("unigeoseg-official")) == preset("unigeoseg-official")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model.extra.weight": (3,)}, "unknown"),
        ({"model.final_layernorm.bias": None}, "missing"),
        ({"global_latents": (5, 2048)}, "misshapen"),
        ({"model.layers.23.mlp.fc1.weight": None}, "missing"),
        ({"refer_pooling.unheard": (1,)}, "unknown"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, tuple[int, ...] | None], what: str) -> None:
    shapes = {**official_shapes(), **change}
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    books = account(shapes, config_of(shapes, preset("unigeoseg-official")))
    with pytest.raises(CheckpointError, match=f"{what} tensors.*{next(iter(change))}"):
        books.check("here")


def test_fused_projections_come_apart() -> None:
    """Against the layout in words: head by head the query, the key, then the value."""
    source = official_layout(TINY)["model.layers.0.self_attn.query_key_value.weight"]
    heads, width = 4, 64
    fused = torch.arange(3 * width * width).view(3 * width, width)
    query, key, value = split(fused, source).values()
    for part, row in ((query, 0), (key, 1), (value, 2)):
        wanted = torch.cat([fused[48 * h + 16 * row : 48 * h + 16 * (row + 1)] for h in range(heads)])
        assert torch.equal(part, wanted)
    assert [name.split(".")[-2] for name in source.ours] == ["q_proj", "k_proj", "v_proj"]


# files


@pytest.mark.parametrize(("kind", "shards"), [("bin", 2), ("bin", 1), ("safetensors", 3), ("safetensors", 1)])
def test_round_trip(tmp_path: Path, model: UniGeoSeg, state: dict[str, Tensor], kind: str, shards: int) -> None:
    source = write_released(tmp_path / "src", state, kind=kind, shards=shards)
    write_tokenizer(source)
    done = convert(source, tmp_path / "dst", base=TINY, shard_bytes=500_000)
    assert (done.config, set(done.dropped) >= set(DEAD), done.tokenizer) == (TINY, True, True)
    written = sorted(path.name for path in (tmp_path / "dst").glob("*.safetensors"))
    assert written[0].startswith("model-00001-of-")
    assert len(written) > 1
    loaded, provenance = load_converted(tmp_path / "dst", lm_head=True)
    wanted = model.state_dict()
    assert set(loaded.state_dict()) == set(wanted)
    assert len(wanted) == done.tensors
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, wanted[name].half().float())
    assert sorted(provenance["files"]) == written
    assert provenance["source"] == "src"
    assert len(provenance["source_files"]) == shards
    back = to_official(loaded.state_dict(), TINY)
    assert all(torch.equal(back[name].half(), state[name]) for name in back)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.full
def test_golden_weights_through_files(tmp_path: Path) -> None:
    """Full width, two language layers: dead tensors, buffers and fused projections as released, in shards."""
    keep = official_shapes()
    config = golden_config("small")
    shapes = {name: source.shape for name, source in official_layout(config).items()}
    dropped = {name: keep[name] for name in account(keep, preset("unigeoseg-official")).dropped}
    state = {name: golden_tensor(name, *shape) for name, shape in (shapes | dropped).items()}
    done = convert(write_released(tmp_path / "src", state, shards=3), tmp_path / "dst")
    assert done.config == config
    loaded, _ = load_converted(tmp_path / "dst", lm_head=True)
    wanted = golden_model("small").state_dict()
    assert set(wanted) == set(loaded.state_dict())
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())


def test_the_same_source_gives_the_same_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    made = []
    for kind in ("bin", "safetensors"):
        convert(write_released(tmp_path / kind, state, kind=kind), tmp_path / f"{kind}-out", base=TINY)
        made.append(json.loads((tmp_path / f"{kind}-out" / "provenance.json").read_text())["files"])
    assert made[0] == made[1]


def test_precision_on_disk_and_in_memory(tmp_path: Path, state: dict[str, Tensor]) -> None:
    convert(write_released(tmp_path / "src", state), tmp_path / "dst", base=TINY, dtype="bfloat16")
    loaded, _ = load_converted(tmp_path / "dst", dtype=torch.bfloat16)
    assert loaded.reader is not None
    assert loaded.reader.lm_head is None
    assert loaded.reader.dtype == loaded.vision.patch.weight.dtype == torch.bfloat16
    assert loaded.mask_decoder.norm.weight.dtype == torch.float32
    with pytest.raises(CheckpointError, match="int8"):
        convert(tmp_path / "src", tmp_path / "other", base=TINY, dtype="int8")


def test_an_existing_target_stays(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_released(tmp_path / "src", state)
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="--overwrite"):
        convert(source, tmp_path / "dst", base=TINY)
    assert (tmp_path / "dst" / "mine.txt").read_text() == "mine"
    convert(source, tmp_path / "dst", base=TINY, overwrite=True)
    assert not (tmp_path / "dst" / "mine.txt").exists()
    load_converted(tmp_path / "dst")


@pytest.mark.parametrize("make", [lambda t: t.write_bytes(b"dear"), lambda t: (t / "thesis").mkdir(parents=True)])
def test_what_is_no_folder_of_weights_is_never_replaced(tmp_path: Path, state: dict[str, Tensor], make: Any) -> None:
    source = write_released(tmp_path / "src", state)
    make(target := tmp_path / "dst")
    with pytest.raises(OutputError, match="never replaced"):
        convert(source, target, base=TINY, overwrite=True)
    assert target.is_file() or (target / "thesis").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst", "src"]


def refused(source: Path, match: str) -> None:
    target = source.parent / "refused"
    with pytest.raises(CheckpointError, match=match):
        convert(source, target, base=TINY)
    assert not target.exists()
    assert not list(source.parent.glob(".*.part"))


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_truncated_or_missing_shards_are_refused(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    source = write_released(tmp_path / "src", state, kind=kind)
    last = sorted(source.glob(f"*of-00002.{'bin' if kind == 'bin' else kind}"))[-1]
    whole = last.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 1, 7, 0):
        last.write_bytes(whole[:keep])
        refused(source, "A shard ")
    last.unlink()
    refused(source, "Shards are missing")


def test_flipped_bits_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_released(tmp_path / "src", state, shards=1)
    path = source / "pytorch_model.bin"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    path.write_bytes(damaged)
    refused(source, "A shard is damaged")


def test_numbers_that_are_none_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["pixel_decoder.mask_features.bias"][3] = float("inf")
    refused(write_released(tmp_path / "src", state), "not finite.*mask_features.bias")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    torch.save({"model.embed_tokens.weight": Evil()}, tmp_path / "src" / "pytorch_model.bin")
    refused(tmp_path / "src", "cannot be read as tensors")
    torch.save(nn.Linear(2, 2), tmp_path / "src" / "pytorch_model.bin")
    refused(tmp_path / "src", "cannot be read as tensors")
    torch.save([torch.zeros(2)], tmp_path / "src" / "pytorch_model.bin")
    refused(tmp_path / "src", "more than tensors by name")
    assert "executed" not in capsys.readouterr().out


def test_an_index_that_lies_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_released(tmp_path / "src", state)
    index = source / "pytorch_model.bin.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.more"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(told))
    refused(source, "not what their index says.*model.more")
    index.write_text("{")
    refused(source, "index of shards is damaged")
    index.unlink()
    refused(source, "no checkpoint here")


# what was converted


def test_damage_after_conversion_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="terraprompt models convert"):
        load_converted(write_released(tmp_path / "src", state))
    folder = convert(tmp_path / "src", tmp_path / "dst", base=TINY).folder
    (shard,) = folder.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        load_converted(folder)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged or was changed"):
        load_converted(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match="A shard is missing"):
        load_converted(folder)
    shard.write_bytes(whole)
    (folder / "config.json").write_text('{"colour": 1}')
    with pytest.raises(CheckpointError, match="description of the weights is damaged"):
        load_converted(folder)


def test_a_name_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="owner/name"):
        weights_folder(tmp_path / "nothing")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="hf download someone/something --local-dir DIR"):
        weights_folder("someone/something")
