"""The two training loops, `sod sft` and `sod train`, and the choice of their problems."""
