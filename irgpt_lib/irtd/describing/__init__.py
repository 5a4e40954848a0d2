"""Who writes descriptions, behind one interface: an OpenAI-compatible server, a model on this machine, or the facts of
a simulated scene. Every prompt and reply is kept in a journal, so that nothing is asked twice."""
