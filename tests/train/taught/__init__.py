"""The proof that fine-tuning teaches: data that is made or taken, judges, and the runs."""
