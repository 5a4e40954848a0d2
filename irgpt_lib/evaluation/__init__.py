"""The trained models judged: generation, scoring, and how sure one may be of a score."""
