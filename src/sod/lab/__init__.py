"""The miniature: small problems, a small tokenizer and small models, so that the whole method runs on a laptop CPU."""
