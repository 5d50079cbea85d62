"""Commands that reproduce tables of docs/results.md."""
