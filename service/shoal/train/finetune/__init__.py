"""Fine-tuning of a model that exists: the user's rows in, a LoRA adapter or a whole folder out.

The base stays itself: its tokenizer, template, end ids and defaults are used and kept. Data flows
one way: `read` (files to rows) -> `encode` (rows to token ids and loss mask) -> `pack` (ids to
packs) -> `loop` (packs through `network` to trained weights) -> `export`; `run` wires them.
"""
