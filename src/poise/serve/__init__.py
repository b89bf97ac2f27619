"""The guard behind the moderation APIs that people already call.

`Service` is the ASGI application of one guard; `apis/` has a file for each API. Requests are keyed, limited, queued and
judged in batches by one thread. It stands on the extra `serve`; nothing else of Poise needs it.
"""
