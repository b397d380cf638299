"""Extension of vLLM's workers that loads the policy's weights, passed to vLLM as `--worker-extension-cls`.

It imports nothing of this project: the server's Python only needs this file, in any directory on its PYTHONPATH.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class WeightSync:
    """Mixed into vLLM's worker class as a base; vLLM's `collective_rpc` calls its methods."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Replace all weights by the safetensors files in a directory. For a tied head, call `renew_tied_head` as well."""
        paths = sorted(Path(folder).glob("*.safetensors"))
        if not paths:  # checked before vLLM starts to replace its model
            raise FileNotFoundError(f"{folder} holds no weights, or is not readable on the server")
        self.model_runner.reload_weights(weights_iterator=_weights(paths))
        _pack_experts(self.model_runner.get_model())

    def renew_tied_head(self) -> None:
        """Copy a tied input embedding to the output head, where vLLM may have kept a packed copy of the old weights."""
        from vllm.model_executor.layers.vocab_parallel_embedding import (  # pyright: ignore[reportMissingImports]
            ParallelLMHead,
            VocabParallelEmbedding,
        )

        if not self.model_runner.model_config.hf_text_config.tie_word_embeddings:
            return
        layers = [each for each in self.model_runner.get_model().modules() if isinstance(each, VocabParallelEmbedding)]
        embedding = next((layer for layer in layers if not isinstance(layer, ParallelLMHead)), None)
        for head in layers:
            if isinstance(head, ParallelLMHead) and embedding is not None:
                head.weight.data.copy_(embedding.weight)
                head.quant_method.process_weights_after_loading(head)


def _pack_experts(model: Any) -> None:
    """Pack the experts on a CPU. vLLM packs them when it starts, but not when it reloads them."""
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    if not current_platform.is_cpu():
        return
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(layer)


def _weights(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
