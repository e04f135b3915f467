"""Weights of MobileSAM: the released ``mobile_sam.pt``, or an encoder and a decoder exported to ONNX, into ours."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from terraprompt.errors import CheckpointError
from terraprompt.io.atomic import atomic_folder
from terraprompt.io.tensors import load_pickled_tensors
from terraprompt.models.sam.mobile_sam import MobileSam, MobileSamConfig

__all__ = ["RELEASED", "convert_mobile_sam", "is_mobile_sam", "load_mobile_sam", "weight_files"]

#: Name of the released file.
RELEASED = "mobile_sam.pt"
_ONNX = ("encoder.onnx", "sam.onnx")
_BN_EPS = 1e-5
#: Of the classifier that TinyViT was trained with, and what is computed anew.
_UNUSED = re.compile(
    r"image_encoder\.(norm_head|head)\.|num_batches_tracked$|attention_bias_idxs$|\.ab$|^pixel_(mean|std)$"
)
#: Names of the release to those of transformers, one after another.
_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^(vision_encoder\..*)\.c\.", r"\1."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
    (r"^(mask_decoder\.transformer\..*)\bnorm", r"\1layer_norm"),
)


def weight_files(source: str | Path) -> list[Path]:
    """The released ``mobile_sam.pt``, or the two ONNX files, that a path means; none: it means something else."""
    path = Path(source)
    if path.is_file():
        return [path] if path.suffix in (".pt", ".pth") else []
    for names in ((RELEASED,), _ONNX):
        if all((path / name).is_file() for name in names):
            return [path / name for name in names]
    return []


def is_mobile_sam(source: str | Path) -> bool:
    """Whether this is MobileSAM as others write it; a folder with config.json is ours, whatever else it holds."""
    return bool(weight_files(source)) and not (Path(source) / "config.json").is_file()


def load_mobile_sam(source: str | Path, config: MobileSamConfig | None = None) -> MobileSam:
    """The model with every weight of ``source``.

    Args:
        source: the released ``mobile_sam.pt`` or a folder that holds it, read as tensors alone; or a folder with
            ``encoder.onnx`` and ``sam.onnx`` as PyTorch exports them. ONNX needs the package onnx.
        config: of the architecture; None: of the release.

    Raises:
        CheckpointError: no such file, damaged, or a tensor that is missing, unknown, not finite or of another shape.
    """
    files = weight_files(source)
    if not files:
        raise CheckpointError(
            "There is no MobileSAM here.",
            received=source,
            hint=f"Give {RELEASED}, or a folder with {' and '.join(_ONNX)}.",
        )
    official = load_pickled_tensors(files[0]) if len(files) == 1 else _from_onnx(*files)
    ours = _renamed(_folded({name: value for name, value in official.items() if not _UNUSED.search(name)}))
    model = MobileSam(config or MobileSamConfig())
    shared = "shared_image_embedding.positional_embedding"
    if shared in ours:
        ours["prompt_encoder.shared_embedding.positional_embedding"] = ours[shared]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in ours.items()}
    for wrong, said in (
        (sorted(wanted.keys() - found.keys()), "without"),
        (sorted(found.keys() - wanted.keys()), "with the unknown"),
        (sorted(name for name, shape in found.items() if wanted.get(name, shape) != shape), "with another shape of"),
        (sorted(name for name, value in ours.items() if not bool(value.isfinite().all())), "not finite in"),
    ):
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(
                "These are not the weights of MobileSAM.",
                received=f"{source} {said} {', '.join(wrong[:3])}{more}",
                hint=f"Take {RELEASED} of its authors.",
            )
    model.load_state_dict(ours)
    return model.requires_grad_(False).eval()  # type: ignore[no-any-return]


def convert_mobile_sam(
    source: str | Path, target: Path, *, config: MobileSamConfig | None = None, overwrite: bool = False
) -> int:
    """Write a folder that :func:`terraprompt.segmenters.load_segmenter` reads; it appears at the end, whole.

    Args:
        source: as of :func:`load_mobile_sam`.
        target: folder with ``config.json`` and ``model.safetensors``.
        config: as of :func:`load_mobile_sam`.
        overwrite: replace it.

    Returns:
        The number of tensors.

    Raises:
        CheckpointError: as :func:`load_mobile_sam`, or ``target`` exists.
    """
    if target.exists() and not overwrite:
        raise CheckpointError("The target exists.", received=target, hint="Choose another, or pass --overwrite.")
    model = load_mobile_sam(source, config)
    with atomic_folder(target) as part:
        model.save_pretrained(part)
    return len(model.state_dict())


def _folded(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each batch norm ``X.bn`` folded into the convolution ``X.c`` before it."""
    out = {name: value.float() for name, value in official.items() if ".bn." not in name}
    for name in [name for name in out if f"{name.removesuffix('c.weight')}bn.running_mean" in official]:
        layer = name.removesuffix("c.weight")
        mean, variance, weight, bias = (
            official[f"{layer}bn.{part}"].float() for part in ("running_mean", "running_var", "weight", "bias")
        )
        fused = fuse_conv_bn_weights(out[name], None, mean, variance, _BN_EPS, weight, bias)
        out[name], out[f"{layer}c.bias"] = (part.detach() for part in fused)
    return out


def _renamed(official: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in official.items():
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        out[name] = value.contiguous()
    return out


def _from_onnx(encoder: Path, decoder: Path) -> dict[str, Tensor]:
    """Tensors by their names in the release; batch norms were folded by the export."""
    tensors = {f"image_encoder.{name}": value for name, value in _initialisers(encoder).items()}
    for name, value in _initialisers(decoder).items():
        name = name.removeprefix("model.")
        part = re.match(r"(prompt_encoder|mask_decoder|mask_downscaling|transformer|output_)", name)
        if part is None:  # of the whole model: constants that the export folded
            if value.shape[-2:] == (5, 256) or value.ndim == 3:
                tensors["mask_decoder.iou_token.weight"] = value[0, :1]
                tensors["mask_decoder.mask_tokens.weight"] = value[0, 1:]
            else:
                tensors["prompt_encoder.no_mask_embed.weight"] = value.reshape(1, -1)
            continue
        if part[0] == "mask_downscaling":
            name = f"prompt_encoder.{name}"
        elif part[0] in ("transformer", "output_"):
            name = f"mask_decoder.{name}"
        tensors[name] = value
    return tensors


def _initialisers(path: Path) -> dict[str, Tensor]:
    """Weights of an exported graph by the names of their layers.

    The export keeps names of what it leaves alone. A weight that it transposed or folded has a number for a name; its
    layer is then in the name of the node that uses it, e.g. ``/layers.1/blocks.0/attn/qkv/MatMul``.

    Raises:
        CheckpointError: not ONNX, onnx is not installed, or a weight's layer is not named.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise CheckpointError(
            "Reading ONNX weights needs the package onnx.", received=path, hint="pip install onnx"
        ) from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf raises its own errors
        raise CheckpointError("The file cannot be read as ONNX.", received=f"{path}: {error}") from error
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    out = {name: _tensor(value) for name, value in values.items() if not name.startswith("onnx::")}
    for node in graph.node:
        layer = _layer(node.name)
        for i, name in enumerate(node.input):
            if name not in values or name in out:
                continue
            value = values[name]
            if node.op_type == "Conv":
                out[f"{layer}.{'weight' if i == 1 else 'bias'}"] = _tensor(value)
            elif node.op_type == "MatMul":
                out[f"{layer}.weight"] = _tensor(value.T)
            elif layer and node.op_type in ("Mul", "Add"):
                out[f"{layer}.{'weight' if node.op_type == 'Mul' else 'bias'}"] = _tensor(value.reshape(-1))
            else:
                out[name] = _tensor(value)
        if node.op_type == "Constant" and layer.endswith("attn"):
            value = numpy_helper.to_array(node.attribute[0].t)
            if value.ndim == 3:  # (heads, N, N) by pairs of tokens: those of the first token are all distances once
                out[f"{layer}.attention_biases"] = _tensor(value[:, 0])
    return out


def _layer(node: str) -> str:
    """``/a/a.0/b/Conv`` to ``a.0.b``: the export repeats the name of a list before its items."""
    parts = node.strip("/").split("/")[:-1]
    kept = [part for part, after in zip_longest(parts, parts[1:], fillvalue="") if not after.startswith(f"{part}.")]
    return ".".join(kept)


def _tensor(value: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32))
