"""The page in a real Chromium: what a reader sees and can do, by mouse, keyboard and touch.

One server over small fakes and one browser serve the whole folder (conftest.py). Every test's tab
fails it on a console error, and on any request that leaves the host.
"""
