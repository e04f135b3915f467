"""Reasoners: language models that look at an image and say where to draw.

>>> from terraprompt.vlm.ask import ask
>>> from terraprompt.vlm.open import open_reasoner
>>> reasoner = open_reasoner(endpoint="http://localhost:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct")
>>> reading = ask(reasoner, image, "the tanks nearest to the pier")

An answer is read by ``answer``, its coordinates by ``conventions``, brought onto the image by ``placement``.
"""

__all__ = ["ENDPOINT_VARIABLE", "KEY_VARIABLE", "LOCAL_VARIABLE", "MODEL_VARIABLE"]

#: Environment variables: address and model of an endpoint, its key, a local checkpoint.
ENDPOINT_VARIABLE = "TERRAPROMPT_ENDPOINT"
MODEL_VARIABLE = "TERRAPROMPT_REASONER_MODEL"
KEY_VARIABLE = "TERRAPROMPT_REASONER_KEY"
LOCAL_VARIABLE = "TERRAPROMPT_REASONER_LOCAL"
