"""The `poise` command: one thin command for each verb. Everything it does, the rooms above can do without it."""
