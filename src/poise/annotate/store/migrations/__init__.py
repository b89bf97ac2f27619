"""The steps that make the tables of the store and bring older ones up to date."""
