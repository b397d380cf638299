"""A Transformers model: load and prove it, packed attention, the optimiser, LoRA adapters, sharding."""
