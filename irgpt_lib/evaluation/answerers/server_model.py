"""Any model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one. It batches by itself."""

from pathlib import Path

from irgpt_lib.evaluation.answerers.generated import Generated, journal_of, one_limit
from irgpt_lib.irtd.describing.openai_server import OpenAIServer


def server_model(server: OpenAIServer, journals: Path) -> Generated:
    """An answerer: the model that `server` names, greedy where its temperature is 0.

    What a server runs under a model's name cannot be seen from here, so each address has a journal of its own; remove
    that where the server was given other weights under the same name.
    """
    journal = journal_of(journals, f"{server.base_url}_{server.model}")
    limits = one_limit(server.max_tokens)
    return Generated(server.model, lambda _: server, limits, journal, lambda prompt, image: (len(prompt),))
