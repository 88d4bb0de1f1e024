"""The catalogue: which items there are, and what their categories are.

The encoder asks it for item rows, and learners read the categories live. A change usually concerns what an `ItemUpdate` says.

`items` (item rows and the catalogue), `categories` (names to numbers and bits), `category_sets` (items of the very same categories).
"""
