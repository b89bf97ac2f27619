"""Poise: from a written safety policy to preference data, a guard, an aligned model and the evidence.

Each room (sub-package) says in its own docstring what lives there; imports point only upwards in the
order harm, metrics, data, llm, collect, annotate, models, guard, preference, align, evaluate, serve, pipeline, cli.
"""

__version__ = "0.1.0"
