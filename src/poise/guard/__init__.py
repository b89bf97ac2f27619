"""The guard: severity-sensitive moderation of prompt-response pairs, and the starter rater that labels first."""
