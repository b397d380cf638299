"""SOD in TRL on the lab's problems: a minute on a CPU, nothing is downloaded. docs/trl.md explains.

    pip install ".[trl]"   # in a checkout of sod
    python examples/trl_sod.py [FOLDER FOR THE STUDENT]

The teacher is the lab's, which ships with the project; the student is the teacher with noise on its weights.
"""

# pyright: reportMissingImports=false
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from sod.adapters.trl import HarnessSettings, SODTrainer, concurrent_rollouts, referee_reward
from sod.config import AlgorithmOptions, RewardOptions, SamplingOptions, ToolOptions
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER, problems
from sod.model.loading import load_tokenizer
from sod.rollout.harness import Harness

out = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
tasks, _ = problems(64, 0, seed=1)
asked = [task.problem(f"lab{i}") for i, task in enumerate(tasks)]

student = AutoModelForCausalLM.from_pretrained(TEACHER_FOLDER, dtype=torch.float32)
torch.manual_seed(0)
with torch.no_grad():
    for weight in student.parameters():
        weight *= 1 + 0.15 * torch.randn_like(weight)

shape = {"num_generations": 8, "per_device_train_batch_size": 16, "steps_per_generation": 2, "max_steps": 8}
learn = {"loss_type": "bnpo", "epsilon_high": 0.28, "learning_rate": 2e-4, "gradient_accumulation_steps": 1}
here = {"use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none"}
args = GRPOConfig(output_dir=out, max_completion_length=settings.ROLLOUT["max_tokens"], **shape | learn | here)
limits = SamplingOptions(**settings.ROLLOUT)
harness = HarnessSettings(rollout=limits, tool=ToolOptions(**settings.TOOL), reward=RewardOptions(**settings.REWARD))

with concurrent_rollouts(Harness.of(Path(TEACHER_FOLDER), harness, asked), asked, limits) as rollouts:
    trainer = SODTrainer(
        model=student,
        reward_funcs=referee_reward,
        args=args,
        train_dataset=Dataset.from_list(rollouts.rows),
        processing_class=load_tokenizer(TEACHER_FOLDER),
        rollout_func=rollouts,
        teacher_model=TEACHER_FOLDER,
        sod=AlgorithmOptions(name="sod"),
    )
    some = Dataset.from_list(rollouts.rows[:16])
    before = trainer.evaluate(some)["eval_reward"]
    trainer.train()
    after = trainer.evaluate(some)["eval_reward"]
trainer.save_model(out)
print(f"Reward on 16 of the problems: {before:.2f} before, {after:.2f} after. The student is in {out}")
