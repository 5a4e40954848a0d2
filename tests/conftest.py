"""A test neither asks a model hub for anything nor shares its arithmetic with other threads."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
