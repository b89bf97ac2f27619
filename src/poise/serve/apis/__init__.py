"""The APIs that the server speaks, one file each: schemas, reading, writing, the shape of faults."""

from poise.serve.apis.api import About, Api, Asked
from poise.serve.apis.azure import TEXT_ANALYZE
from poise.serve.apis.classify import TEI_PREDICT, VLLM_CLASSIFY
from poise.serve.apis.judge import JUDGE
from poise.serve.apis.litellm import GUARDRAIL
from poise.serve.apis.openai import MODERATIONS
from poise.serve.apis.perspective import COMMENTS_ANALYZE

APIS = (JUDGE, MODERATIONS, TEXT_ANALYZE, GUARDRAIL, VLLM_CLASSIFY, TEI_PREDICT, COMMENTS_ANALYZE)

__all__ = ["APIS", "About", "Api", "Asked"]
