"""`python -m irgpt_lib.cli`."""

from irgpt_lib.cli import app

if __name__ == "__main__":
    app()
