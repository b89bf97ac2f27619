"""A fault-injecting server with OpenAI's interface: no key, no network, no model. `python -m poise.llm.fake --help`."""

from poise.llm.fake.faults import KINDS, Faults
from poise.llm.fake.server import FakeServer, ServerLimits

__all__ = ["FakeServer", "Faults", "KINDS", "ServerLimits"]
