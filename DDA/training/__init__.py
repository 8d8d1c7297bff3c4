"""Training: what is trained is a `Task`, one loop trains it, a run folder keeps it."""
