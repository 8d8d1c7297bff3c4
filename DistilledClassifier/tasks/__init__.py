"""What is trained here: tasks for the one loop."""
