"""Training: a `Task` is trained by one loop, and a run folder keeps it."""
