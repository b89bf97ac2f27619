"""Alignment: `core` is pure maths, `multiplier` the state, `algorithms` the papers, `engine` the machine."""
