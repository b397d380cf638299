"""A miniature setup: small problems, tokenizer and models, so that the whole method runs on a laptop CPU."""
