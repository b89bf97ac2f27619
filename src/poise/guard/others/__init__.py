"""Guards of others behind the one `judge`: generative ones over any OpenAI-compatible endpoint, and hosted ones."""

from poise.guard.others.endpoint_guard import EndpointGuard
from poise.guard.others.family import Answer, Family, Question
from poise.guard.others.granite import GRANITE_GUARDIANS
from poise.guard.others.hosted import AZURE_TEXT, OPENAI_MODERATION, azure_client, client_of, openai_client
from poise.guard.others.judging import GuardTask
from poise.guard.others.llama_guard import LLAMA_GUARDS
from poise.guard.others.md_judge import MD_JUDGE
from poise.guard.others.qwen3guard import QWEN3GUARD
from poise.guard.others.safeguard import SAFEGUARD
from poise.guard.others.shieldgemma import SHIELDGEMMA
from poise.guard.others.wildguard import WILDGUARD

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *LLAMA_GUARDS,
        QWEN3GUARD,
        WILDGUARD,
        SHIELDGEMMA,
        *GRANITE_GUARDIANS,
        MD_JUDGE,
        SAFEGUARD,
        OPENAI_MODERATION,
        AZURE_TEXT,
    )
}
"""All families by name."""

__all__ = [
    "FAMILIES",
    "Answer",
    "EndpointGuard",
    "Family",
    "GuardTask",
    "Question",
    "azure_client",
    "client_of",
    "openai_client",
]
