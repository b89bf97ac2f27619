"""Talking to language models: the seam `Endpoint`, and what stands behind it when the model is a server.

`exchange` says what a request and a reply are; `http_client` and `replay` answer requests, `json_client` those of
servers that are no chat (both over `http_line`), `runner` sends many of them over `limits` and stores each reply in
`store`, `structured` asks for JSON, `budget` says what it costs, `remote` makes an `Endpoint` of it, `fake` is a server
for tests and demos, `batch_files` the way round it by OpenAI Batch files. Import those by module: this file stays
light, because the local model needs no HTTP. The local model itself is `poise.models.local`.
"""

from poise.llm.endpoint import Completion, Endpoint, Messages

__all__ = ["Completion", "Endpoint", "Messages"]
