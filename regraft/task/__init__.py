"""What differs between tasks, and nowhere else."""
