"""What a person looks at: results of a run as one page that needs nothing else."""
