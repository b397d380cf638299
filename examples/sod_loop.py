"""SOD in one screen of PyTorch and Transformers (arXiv 2605.07725): sample, score, weigh, learn.

    python examples/sod_loop.py [UPDATES]     # 20 updates take a minute or two on a laptop; nothing is downloaded

A trajectory is x, y_1, o_1, ..., y_K: a prompt, then turns y_k of the student, each followed by the tool's observation o_k.
Step k is the student's own tokens between two observations (I_k). A frozen teacher pi_T scores every one of these tokens:

    d_k = mean over t in I_k of |log pi_S(y_t) - log pi_T(y_t)|                      divergence of step k             (Eq. 6)
    w_1 = 1,  w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta)                weight of step k                 (Eq. 7)
    A_t = (r - mean(r)) / (std(r) + 1e-6) + w_k (log pi_T(y_t) - log pi_S(y_t))      GRPO plus weighted teacher  (Eq. 8 to 10)
    L = -mean over t of min(rho_t A_t, clip(rho_t, 0.8, 1.28) A_t),  rho_t = pi(y_t) / pi_S(y_t)

The teacher is the lab's, which ships with sod. The student is a copy of it with noise on its weights. `sod train` does the
same with packed sequences, concurrent tools, checkpoints and alarms.
"""

# pyright: reportAttributeAccessIssue=false
import asyncio
import sys

import torch
from transformers import AutoModelForCausalLM

from sod import core
from sod.chat.format import ChatFormat, parse_calls
from sod.config import SandboxOptions, ToolOptions
from sod.lab.make import TEACHER_FOLDER, problems
from sod.model.loading import load_tokenizer
from sod.sandbox.retries import open_sandbox
from sod.tools import Toolbox
from sod.tools.python import PythonTool

UPDATES = int(sys.argv[1]) if len(sys.argv) > 1 else 20
PROBLEMS, GROUP, MINIBATCHES, TURNS, TURN_TOKENS = 8, 8, 4, 8, 36
torch.manual_seed(0)
tokenizer = load_tokenizer(TEACHER_FOLDER)
chat = ChatFormat(tokenizer)
tools = Toolbox([PythonTool(open_sandbox(SandboxOptions()), ToolOptions(max_chars=200, errors="last_line"))])
teacher = AutoModelForCausalLM.from_pretrained(TEACHER_FOLDER, dtype=torch.float32).eval()
student = AutoModelForCausalLM.from_pretrained(TEACHER_FOLDER, dtype=torch.float32).eval()
for weight in student.parameters():
    weight.data += 0.2 * weight.std() * torch.randn_like(weight)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def write(prompts):
    """One turn of the student for each prompt, token by token, up to and including its end-of-turn token."""
    padded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    written = student.generate(**padded, max_new_tokens=TURN_TOKENS, do_sample=True, top_k=0, top_p=1.0)
    turns = [turn.tolist() for turn in written[:, padded["input_ids"].shape[1] :]]
    return [turn[: turn.index(chat.end_of_turn) + 1] if chat.end_of_turn in turn else turn for turn in turns]


async def sample(tasks):
    """A trajectory for each task: its tokens, which of them the student sampled, and the reward, 1 or -1."""
    ids = [chat.prompt([{"role": "user", "content": task.question}], tools.schemas) for task in tasks]
    own, rewards, going = [[False] * len(prompt) for prompt in ids], [-1.0] * len(tasks), list(range(len(tasks)))
    for _ in range(TURNS):
        for b, turn in zip(going.copy(), write([ids[b] for b in going]), strict=True):
            ids[b], own[b] = ids[b] + turn, own[b] + [True] * len(turn)
            if calls := parse_calls(chat.text(turn)):
                results = chat.observation([result.text for result in await tools.answer(calls)])
                ids[b], own[b] = ids[b] + results, own[b] + [False] * len(results)
            if not calls or turn[-1] != chat.end_of_turn:
                rewards[b] = 1.0 if chat.text(turn).endswith(f"\\boxed{{{tasks[b].answer}}}") else -1.0
                going.remove(b)
        if not going:
            break
    pad = torch.nn.utils.rnn.pad_sequence
    ids_BT, own_BT = (pad([torch.tensor(row) for row in rows], batch_first=True) for rows in (ids, own))
    return ids_BT, own_BT, torch.tensor(rewards)


def logprobs(model, ids_BT):
    """Log-probability of every token given those before it; 0 for the first."""
    logp_BTV = model(ids_BT[:, :-1]).logits.log_softmax(-1)
    return torch.nn.functional.pad(logp_BTV.gather(-1, ids_BT[:, 1:, None])[..., 0], (1, 0))


tasks, _ = problems(PROBLEMS * UPDATES, 0, seed=1)
groups_B = torch.arange(PROBLEMS).repeat_interleave(GROUP)
loop = asyncio.Runner()  # one event loop for all updates: the interpreter's processes belong to it
for update in range(UPDATES):
    ids_BT, mask_BT, rewards_B = loop.run(sample([tasks[PROBLEMS * update + group] for group in groups_B]))
    with torch.no_grad():
        old_BT, teacher_BT = logprobs(student, ids_BT), logprobs(teacher, ids_BT)
    steps_BT = core.step_ids(mask_BT)
    d_BK = core.step_divergence(old_BT, teacher_BT, steps_BT)
    w_BT = core.per_token(core.step_weights(d_BK), steps_BT)
    signal_BT = core.teacher_advantage(old_BT, teacher_BT, mask_BT)
    credit_BT = core.group_advantage(rewards_B, groups_B)[:, None] + w_BT * signal_BT
    for rows in torch.randperm(len(ids_BT)).chunk(MINIBATCHES):
        loss_BT = core.clipped_policy_loss(logprobs(student, ids_BT[rows]), old_BT[rows], credit_BT[rows])
        optimizer.zero_grad()
        core.masked_mean(loss_BT, mask_BT[rows]).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    d, solved = core.masked_mean((old_BT - teacher_BT).abs(), mask_BT), (rewards_B > 0).float().mean()
    print(f"update {update + 1}  solved {solved:.0%}  divergence {d:.3f} nats", flush=True)
