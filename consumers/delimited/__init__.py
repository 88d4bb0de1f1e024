"""Delimited text: CSV, TSV and their kin, as columns of numbers.

`reader` opens a file and reads it. `encoding` turns bytes into text. `head` looks at its first lines: the delimiter, and which column is what by the names in its
`header` (names that people give columns are listed there) or, without a header, by its `content`. `catalogue` reads tables of items and users. `fields` splits text, `rows`
parses what was split, `numerals` the numbers in it. A change usually adds a name of a column, or a way in which numbers are written.
"""
