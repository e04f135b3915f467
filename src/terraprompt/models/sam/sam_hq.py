"""SAM-HQ's mask decoder over the weights that transformers loads.

The decoder of transformers (seen in 5.23) throws away the image features that its two-way transformer has
updated and draws on the raw ones, height and width exchanged, so that released weights draw nonsense. This one draws
on the updated features, as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HqMaskDecoder"]


class HqMaskDecoder(nn.Module):
    """Segment Anything in High Quality (arXiv 2306.01567), section 3.2.

    Args:
        layers: ``SamHQMaskDecoder`` of transformers, whose weights are used.
    """

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        hq_token_only: bool,
        intermediate_embeddings: list[Tensor],
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoUs of all prompts.

        Args:
            image_embeddings: (B, C, h, w).
            image_positional_embeddings: (B, C, h, w).
            sparse_prompt_embeddings: (B, P, N, C).
            dense_prompt_embeddings: (B, C, h, w).
            multimask_output: three masks a prompt, not one.
            hq_token_only: leave out SAM's own mask.
            intermediate_embeddings: of the encoder's global blocks, (B, h, w, D) each; the first is used.
            attention_similarity: handed to the transformer.
            target_embedding: handed to the transformer.

        Returns:
            Logits (B, P, M, 4h, 4w) and IoUs (B, P, M).
        """
        net: Any = self.layers
        batch, _, height, width = image_embeddings.shape
        count = sparse_prompt_embeddings.shape[1]
        own = torch.cat([net.iou_token.weight, net.mask_tokens.weight, net.hq_token.weight])
        tokens, seen = net.transformer(
            point_embeddings=torch.cat([own.expand(batch, count, -1, -1), sparse_prompt_embeddings], dim=2),
            image_embeddings=(image_embeddings + dense_prompt_embeddings).repeat_interleave(count, 0),
            image_positional_embeddings=image_positional_embeddings.repeat_interleave(count, 0),
            attention_similarity=attention_similarity,
            target_embedding=target_embedding,
        )
        seen = seen.transpose(2, 3).reshape(batch * count, -1, height, width)
        coarse = net.activation(net.upscale_layer_norm(net.upscale_conv1(seen)))
        coarse = net.activation(net.upscale_conv2(coarse))
        details = self._details(image_embeddings, intermediate_embeddings[0]).repeat_interleave(count, 0)
        fine = net.mask_conv2(net.activation(net.mask_norm(net.mask_conv1(coarse)))) + details

        kinds = len(net.output_hypernetworks_mlps)
        weights = [mlp(tokens[:, :, 1 + i]) for i, mlp in enumerate(net.output_hypernetworks_mlps)]
        masks = _drawn(torch.stack(weights, dim=2), coarse)
        sharp = _drawn(net.hq_mask_mlp(tokens[:, :, 1 + kinds])[:, :, None], fine)
        scores = net.iou_prediction_head(tokens[:, :, 0])
        wanted = slice(1, None) if multimask_output else slice(0, 1)
        drawn = sharp.expand_as(masks[:, :, wanted]) if hq_token_only else masks[:, :, wanted] + sharp
        return drawn, scores[:, :, wanted]

    def _details(self, image: Tensor, early: Tensor) -> Tensor:
        """Global-local fusion: late features and those of an early block, (B, C / 8, 4h, 4w)."""
        net: Any = self.layers
        late = net.encoder_conv2(net.activation(net.encoder_norm(net.encoder_conv1(image))))
        early = net.compress_vit_conv1(early.permute(0, 3, 1, 2))
        fused: Tensor = late + net.compress_vit_conv2(net.activation(net.compress_vit_norm(early)))
        return fused


def _drawn(weights: Tensor, features: Tensor) -> Tensor:
    """(B, P, M, C) and (B * P, C, h, w) to (B, P, M, h, w)."""
    batch, count, _, width = weights.shape
    return torch.einsum("bpmc,bpchw->bpmhw", weights, features.view(batch, count, width, *features.shape[-2:]))
