"""The library behind the notebooks of the IRGPT reproduction study."""
