"""A Transformers model: loading and checks, packed attention, the optimiser, LoRA adapters, sharding."""
