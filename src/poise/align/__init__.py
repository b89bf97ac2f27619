"""Alignment: `core` is pure maths, `multiplier` the constraint's state, `algorithms` the papers, `engine` the machine."""
