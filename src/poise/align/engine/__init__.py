"""The local engine: rollouts, scores and gradients on one shared trunk in this process."""
