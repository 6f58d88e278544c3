"""Test cases for code problems, made by a generator and validated by ground-truth submissions. Report, section 2.3.5."""
