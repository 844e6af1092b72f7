"""Reports of runs: read from their directories, built as data, written as HTML and Markdown.

discover.py      which directories hold a run
reading.py       everything that a run's files say, with evaluation.py and events.py
grouping.py      runs that differ in the seed only belong together
curves.py        the numbers: estimates and intervals
words.py, drawing.py    how numbers are worded and drawn
overview.py, results.py, tasks.py, details.py    the sections
build.py         the whole page
page.py          the page as data, which html.py (with style.py) and markdown.py write out
"""
