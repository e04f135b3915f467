"""Training: one loop for the segmenters and the reasoner's warm-up, GRPO, and the samples that they learn from."""
