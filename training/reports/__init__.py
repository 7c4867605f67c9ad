"""What is written for people: the report, cards, the Hub.

In strings of Python and not by templates: most of it decides which rows and cells there are, which
a template would have to decide too, in a second language and in files of its own.
"""
