"""The benchmark in the forms of evaluation kits: a task folder of lmms-eval, TSV files of VLMEvalKit."""
