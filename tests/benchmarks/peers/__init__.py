"""Shoal beside other servers: one machine, the same weights, one load generator.

`shapes` writes the models, `gguf` converts them, `llama_server`, `openvino`, `vllm` and `ours` say
how each server is installed and started, `process` starts and ends it, `measure` loads it, `report`
and `plot` show ratios. `__main__` is the program; `make bench-peers` runs it.
"""
