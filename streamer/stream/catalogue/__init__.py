"""The catalogue: all items, and their categories.

The encoder gets item rows from it, and learners read the categories live. A change usually concerns a field of `ItemUpdate`.

`items` (item rows and the catalogue's entries), `categories` (names to numbers and bits), `category_sets` (sets of items that
have the same categories).
"""
