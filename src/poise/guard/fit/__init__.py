"""Training a guard on any sets of the data room: their rows, the model, the loop, thresholds, and what it can do."""
