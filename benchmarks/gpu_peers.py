"""The peers of benchmarks/gpu.py, each in a process of its own: vLLM alone, and TRL's GRPOTrainer.

gpu.py starts it with a task as JSON on stdin. The line that begins with MARK is a JSON object:

    vllm    seconds of sampling, round after round, by vLLM without this project
    trl     seconds of one GRPO update by TRL: generation, scores, learning; no teacher, no tools

Networks are drawn as in gpu.py. TRL generates by itself, not with vLLM. It has one turn, as long as all turns of gpu.py together.
"""

# pyright: reportMissingImports=false

import json
import random
import sys
import tempfile
import time
from typing import Any

import torch

from sod.lab.make import TEACHER_FOLDER

MARK = "RESULT "


def vllm(task: dict[str, Any]) -> dict[str, Any]:
    """Every turn of all trajectories in one call, with the observations between them; prefixes are kept."""
    from gpu_work import STUDENT, Lengths, config_of, made_up, small
    from vllm import LLM, SamplingParams

    lengths = Lengths(**task["lengths"])
    shape = small(STUDENT, 2) if task["small"] else STUDENT
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(shape)
        config.architectures = ["Qwen3ForCausalLM"]
        config.save_pretrained(folder)
        llm = LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=lengths.whole,
            gpu_memory_utilization=task["memory_share"],
        )
    asked = {"temperature": 1.0, "ignore_eos": True, "detokenize": False, "logprobs": 0}

    def rounds(count: int, lengths: Any, seed: int) -> list[float]:
        seconds = []
        for round in range(count):
            draw = random.Random(seed + round)
            prompts = [list(made_up(draw, lengths.prompt)) for _ in range(lengths.problems)]
            texts = [list(prompt) for prompt in prompts for _ in range(lengths.group)]
            start = time.perf_counter()
            for turn in range(lengths.turns):
                texts = [ids + list(made_up(draw, lengths.observation)) for ids in texts] if turn else texts
                limits = SamplingParams(max_tokens=lengths.turn, seed=draw.getrandbits(31), **asked)
                replies = llm.generate([{"prompt_token_ids": ids} for ids in texts], limits, use_tqdm=False)
                texts = [ids + list(reply.outputs[0].token_ids) for ids, reply in zip(texts, replies, strict=True)]
            seconds.append(time.perf_counter() - start)
        return seconds

    rounds(1, lengths.warming, 99)
    return {"generate": rounds(task["rounds"], lengths, 1)}


def trl(task: dict[str, Any]) -> dict[str, Any]:
    """One update to warm up, then `rounds` of them. -> seconds of each phase, and sampled tokens, round after round"""
    from datasets import Dataset
    from gpu_work import STUDENT, Lengths, made_up, network, small
    from transformers import AutoTokenizer
    from trl_peer import _config, _RecordedGRPO

    lengths = Lengths(**task["lengths"])
    shape, device = small(STUDENT, 2) if task["small"] else STUDENT, torch.device(task["device"])
    tokenizer = AutoTokenizer.from_pretrained(TEACHER_FOLDER, local_files_only=True)
    updates, draw = 1 + task["rounds"], random.Random(0)
    config = _config(
        group=lengths.group,
        rollouts=lengths.trajectories,
        minibatches=lengths.problems,
        max_steps=updates * lengths.problems,
        max_completion_length=lengths.turns * lengths.turn,
        generation_kwargs={"max_new_tokens": lengths.turns * lengths.turn},
        use_cpu=device.type == "cpu",
        bf16=device.type != "cpu",
        gradient_checkpointing=task["checkpointing"],
    )
    rows = [
        {"prompt": [{"role": "user", "content": tokenizer.decode(made_up(draw, lengths.prompt))}]}
        for _ in range(updates * lengths.problems)
    ]
    trainer = _RecordedGRPO(
        model=network(shape, device, 0),
        reward_funcs=lambda completions, **_: [float(number % 2) for number in range(len(completions))],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    ends = [*trainer.starts[1:], time.perf_counter()]
    whole = [end - start for start, end in zip(trainer.starts, ends, strict=True)][1:]
    batches = trainer.batches[1:]
    return {
        "generate": [batch.rollout_seconds for batch in batches],
        "score, student": [batch.score_seconds for batch in batches],
        "learn": [
            seconds - batch.rollout_seconds - batch.score_seconds for seconds, batch in zip(whole, batches, strict=True)
        ],
        "sampled": [batch.tokens_sampled for batch in batches],
    }


if __name__ == "__main__":
    print(MARK + json.dumps({"vllm": vllm, "trl": trl}[sys.argv[1]](json.load(sys.stdin))))
