"""Random campaigns against the library's promises: `python -m tests.fuzz --minutes M --seed S`."""
