"""Algorithms, one file per paper: each turns measured experience into what actor and critics learn from."""
