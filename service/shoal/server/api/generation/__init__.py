"""What completions and chat share: fields, building the task, collecting, streaming."""
