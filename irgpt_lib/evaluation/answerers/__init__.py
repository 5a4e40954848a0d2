"""Who answers the benchmark: a model of the study, any transformers model, any server, or a file of answers."""
