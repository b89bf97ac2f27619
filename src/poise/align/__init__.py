"""Alignment: `core` is pure maths, `multiplier` the constraint state, `algorithms` the papers, `engine` the machine."""
