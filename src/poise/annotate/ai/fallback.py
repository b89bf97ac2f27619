"""Log-probabilities where they exist: a server that gives none is asked without them, and remembered."""

from __future__ import annotations

from dataclasses import replace

from poise.llm.exchange import ChatClient, ChatRequest, EndpointError, Reply, Shape


class WhereLogprobs:
    """A client that takes no for an answer when it asks for log-probabilities.

    The request keeps its identity, so its reply is stored under what was asked for. The one extra send is not seen by a
    budget.

    Args:
        client: does the work.
    """

    def __init__(self, client: ChatClient) -> None:
        self.alias = client.alias
        self._client = client
        self.gives_logprobs = True
        """False once the server has answered only without them."""

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """One exchange.

        Raises:
            EndpointError: there is no reply, with log-probabilities or without.
        """
        without = replace(request, logprobs=0)
        if not request.logprobs or not self.gives_logprobs:
            return await self._client.send(without, shape)
        try:
            return await self._client.send(request, shape)
        except EndpointError as error:
            if error.kind != "unsupported":
                raise
            try:
                reply = await self._client.send(without, shape)
            except EndpointError:
                raise error from None  # it was something else that the server can't do
            self.gives_logprobs = False
            return reply

    async def close(self) -> None:
        """Give connections back."""
        await self._client.close()
