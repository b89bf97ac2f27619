"""Collection: new prompts for the emptiest cells of the category x severity grid, several responses to each prompt."""

from poise.collect.prompts import Cell, emptiest_cells, write_prompts
from poise.collect.responses import Persona, plan_responses, response_rows

__all__ = ["Cell", "Persona", "emptiest_cells", "plan_responses", "response_rows", "write_prompts"]
