"""Talking to language models: so far the seam itself; remote endpoints and the request runner belong here."""

from poise.llm.endpoint import Completion, Endpoint, Messages

__all__ = ["Completion", "Endpoint", "Messages"]
