"""The two training stages and the weighted loss (sections 4.1 and 4.2.3 of the paper)."""
