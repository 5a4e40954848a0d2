"""The infrared-text dataset, IR-TD (section 3 of the paper)."""
