"""What vLLM's workers learn to do for us, named to vLLM by `--worker-extension-cls`.

It imports nothing of this project: a server's Python needs this one file, in any folder on its PYTHONPATH.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class WeightSync:
    """Becomes a base of vLLM's worker class; its methods are called by vLLM's `collective_rpc`."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Replace all weights by those of the safetensors files in a folder. A tied head needs `renew_tied_head`, too."""
        paths = sorted(Path(folder).glob("*.safetensors"))
        if not paths:  # found out before vLLM takes its model apart
            raise FileNotFoundError(f"{folder} holds no weights, or cannot be seen from here")
        self.model_runner.reload_weights(weights_iterator=_weights(paths))

    def renew_tied_head(self) -> None:
        """Where the output embedding is the input embedding, take that; vLLM may have kept a packed copy of the old one."""
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


def _weights(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
