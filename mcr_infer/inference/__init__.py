"""Bundles and what runs them: preprocessing, tokenizer, towers on their runtimes, engines, encoders, verification."""
