"""What all sections of a recipe are."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
