"""Algorithms, one file per paper: each turns measured experience or log-probabilities into what a model learns from.

Online, from a rollout (scores at the end of B responses, cost higher is worse, `multiplier` moved once before):

| file | settings | what it gives the engine |
|---|---|---|
| `ppo` | `PPO` | `targets(experience) -> Advantage(advantage, returns)`, one critic |
| `reward_shaping` | `RewardShaping` | `targets(experience, cost, weight) -> Advantage`, one critic |
| `ppo_lagrangian` | `PPOLagrangian` | `targets(experience, multiplier) -> Targets`, two critics |
| `repo` | `RePO` | `targets(experience, multiplier, groups) -> Targets`, two critics; `prompt_costs` |
| `grpo_lagrangian` | `GRPOLagrangian` | `advantage(reward, cost, groups, multiplier)`, `loss(...)`, no critic |
| `rloo_lagrangian` | `RLOOLagrangian` | `advantage(reward, cost, groups, multiplier, divergence)`, `loss(...)` |

Offline, from pairs (`pairs.PairLogProbs`: four float[P] sums from `core.sequence_log_probs`); a loss is float[P]:

| file | settings | call | chosen is |
|---|---|---|---|
| `dpo` | `DPO`, `IPO` | `loss(pairs)` | the label's |
| `safe_dpo` | `SafeDPO` | `loss(pairs, contrast)`, after `reorder(unsafe_better, unsafe_worse)` | better, or swapped |
| `bfpo` | `BFPO` | `loss(pairs, safe_chosen, safe_rejected)`; `selected(names)` | better |
| `sacpo` | `SACPO` | `steps`: two DPO runs; `merged(helpful, safe, weight)` | better, then safer |
| `mocan` | - | `solve_dual(reward, cost, threshold, beta)`, `pseudo_labels(...)`, then `DPO` | by pseudo-label |
| `pecan` | - | `implicit_scores(helpful, harmless, reference, beta)`, then as `mocan` | by pseudo-label |

`derta` is supervised: `prefix_row`, `transition_row`, `label_tensors`, `loss`.
"""
