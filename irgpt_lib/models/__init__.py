"""The models of the study: the multimodal LLM, the masked-autoencoder extractor and the CLIP."""
