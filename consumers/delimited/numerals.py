"""Numbers as people write them: 4.5 or 4,5; 1,234.5 or 1.234,5 or 1'234.5."""

import re
from collections.abc import Collection

MISSING = {"", "na", "nan", "null", "none", "n/a", r"\n"}  # what people write where there is none, in small letters
_BLANKS = " '\u2019\u00a0\u202f"
_POINT = re.compile(rf"[+-]?(?=[.\d])(?:\d{{1,3}}(?:[,{_BLANKS}]\d{{3}})+|\d*)(?:\.\d*)?")
_COMMA = re.compile(rf"[+-]?(?=[,\d])(?:\d{{1,3}}(?:[.{_BLANKS}]\d{{3}})+|\d*)(?:,\d*)?")
_GROUPS = str.maketrans("", "", _BLANKS)


def number(text: str, *, comma: bool = False) -> float:
    """The number in a text, with a decimal point or, if `comma` says so, a decimal comma. Raises ValueError."""
    if comma and _COMMA.fullmatch(text):
        return float(text.translate(_GROUPS).replace(".", "").replace(",", "."))
    try:
        return float(text)
    except ValueError:
        if _POINT.fullmatch(text):
            return float(text.translate(_GROUPS).replace(",", ""))
        if _COMMA.fullmatch(text):
            return float(text.translate(_GROUPS).replace(".", "").replace(",", "."))
        raise


def has_decimal_commas(texts: Collection[str], delimiter: str) -> bool:
    """Whether the numbers of a column have decimal commas. `1,234` alone is a thousand, or 1.234 in columns that ; separates."""
    found = [text for text in texts if "," in text]
    if any(_COMMA.fullmatch(text) and not _POINT.fullmatch(text) for text in found):
        return True
    return bool(found) and delimiter == ";" and all("." not in text and text.count(",") < 2 for text in texts)
