"""A world in which safety is known exactly: requests over texts of a grammar, a small model, oracles for both scores.

After "What Makes and Breaks Safety Fine-tuning?" (Jain et al., arXiv 2407.10264). `grammar` makes requests and judges
responses, `speaker` is the model, `offline` and `online` train it with the methods of `poise.align.algorithms`,
`outcomes` measures and draws. `benchmarks/synthetic_world.py` runs all of it.
"""
