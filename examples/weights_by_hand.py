"""Step weights by hand: one trajectory of three steps, and the paper's three patterns.

python examples/weights_by_hand.py
"""

import torch

from sod.core import per_token, step_divergence, step_ids, step_weights

# Two model tokens, an observation of one token, two more, another observation, and the last two.
mask_BT = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1]]).bool()
student_BT = torch.tensor([[-0.1, -0.5, 0.0, -0.2, -0.2, 0.0, -0.9, -0.3]])
teacher_BT = torch.tensor([[-0.3, -0.7, 0.0, -2.2, -0.6, 0.0, -0.8, -0.4]])

ids_BT = step_ids(mask_BT)
d_BK = step_divergence(student_BT, teacher_BT, ids_BT)
w_BK = step_weights(d_BK)
print("step ids  ", ids_BT.tolist()[0])
print("d         ", [round(d, 3) for d in d_BK.tolist()[0]])
print("w         ", [round(w, 3) for w in w_BK.tolist()[0]])
print("per token ", [round(w, 3) for w in per_token(w_BK, ids_BT).tolist()[0]])

for name, d in {
    "stable": [0.20, 0.19, 0.21, 0.18],
    "erroneous": [0.20, 0.45, 0.80, 1.20],
    "recovery": [0.20, 0.36, 0.26, 0.17],
}.items():
    weights = step_weights(torch.tensor([d])).tolist()[0]
    print(f"{name:<10}", "d", d, " w", [round(w, 2) for w in weights])
