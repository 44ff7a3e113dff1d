"""Runs that fill or drain an index: what runs behind `embed-images`, `embed-reports`, `prune`, `import` and `export`."""
