"""The scenes, one story a file; `run.py` lists which of them are played, by whom."""
