"""Which names a player may have: readable by everybody, and not to be mistaken for another player's.

A name is kept as NFKC. It has 1–32 letters, digits and `. _ -`, starts and ends with a letter or digit, and its letters
come from one script. Two names that look alike (`ace` and Cyrillic `асе`, `AIice` and `Alice`) have one *skeleton*, and a
skeleton is unique in the database. A few names could speak for the site, and are nobody's.
"""

import re
import unicodedata

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

LONGEST = 32
RESERVED = set(
    "admin administrator anonymous api everyone help me moderator moderators null official root scoreboard "
    "security server support system team undefined user you".split()
)
_MARKS_IN_A_ROW = 2  # more of them are drawn across the lines above and below
_PUNCTUATION = "._-"
# The scripts that UTS 31 recommends for names. The others are historic, or copies of these shapes (Lisu has Latin's capitals).
_SCRIPTS = set(
    "ARABIC ARMENIAN BENGALI BOPOMOFO CJK CYRILLIC DEVANAGARI ETHIOPIC GEORGIAN GREEK GUJARATI GURMUKHI HANGUL HEBREW HIRAGANA "
    "KANNADA KATAKANA KHMER LAO LATIN MALAYALAM MYANMAR ORIYA SINHALA TAMIL TELUGU THAANA THAI TIBETAN".split()
)
_NAMED_OTHERWISE = {"KATAKANA-HIRAGANA": "KATAKANA", "IDEOGRAPHIC": "CJK"}
# Letters and marks that are drawn as nothing (Unicode's Default_Ignorable_Code_Point, as far as letters and marks go).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Scripts that are written together; every other pair is a disguise.
_TOGETHER = ({"HIRAGANA", "KATAKANA", "CJK"}, {"HANGUL", "CJK"}, {"BOPOMOFO", "CJK"})

# Letters and the Latin ones that they look like, after Unicode's confusables (UTS 39), for the scripts that share shapes.
_LOOKS_LIKE = str.maketrans(
    "авеёзіїјкӏмнорсѕтухһѵԁԛԝαβεηικνορτυχωϲɑɡıłøđħ",
    "abee3iijklmhopcstyxhvdqwabenikvoptuxwcagilodh",
)
# Capital I is a lower-case l, and names are equal in any case: so i, l and 1 are one letter here, as are o and 0.
_ONE_LETTER = str.maketrans("i10", "llo")


def skeleton(name: str) -> str:
    """What a name looks like. Names with one skeleton could be mistaken for each other."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn" and not _INVISIBLE.match(letter))
    return letters.translate(_LOOKS_LIKE).translate(_ONE_LETTER).replace("rn", "m").replace("vv", "w")


def clean(name: str) -> str:
    """The name as it is kept. Raises: `ValidationError`, saying what to change."""
    name = unicodedata.normalize("NFKC", name)
    if not 1 <= len(name) <= LONGEST:
        raise ValidationError(_("A name has 1 to %(most)d characters."), params={"most": LONGEST}, code="name_length")
    if _INVISIBLE.search(name):
        raise ValidationError(_("A name has no invisible characters."), code="name_invisible")
    if not all(_is_letter_or_digit(letter) or _is_mark(letter) or letter in _PUNCTUATION for letter in name):
        raise ValidationError(_("A name has only letters, digits and . _ -"), code="name_characters")
    if not _is_letter_or_digit(name[0]) or name[-1] in _PUNCTUATION:
        raise ValidationError(_("A name starts and ends with a letter or digit."), code="name_ends")
    if any(all(map(_is_mark, name[at : at + _MARKS_IN_A_ROW + 1])) for at in range(len(name) - _MARKS_IN_A_ROW)):
        raise ValidationError(_("A name has at most two accents on a letter."), code="name_marks")
    scripts = {_script(letter) for letter in name if letter.isalpha()}
    if not scripts <= _SCRIPTS or not _one_script(scripts):
        raise ValidationError(_("The letters of a name come from one script that is in common use."), code="name_scripts")
    if skeleton(name) in _RESERVED_SKELETONS:
        raise ValidationError(_("This name is reserved."), code="name_reserved")
    return name


def validate(name: str) -> None:
    """`clean`, as a field's validator."""
    clean(name)


def _is_letter_or_digit(letter: str) -> bool:
    return letter.isalpha() or (letter.isascii() and letter.isdigit())


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Mc")


def _script(letter: str) -> str:
    # The standard library has no script property; the first word of a letter's name says the same for the letters in use.
    if "\u0250" <= letter < "\u0300" or "\u1d00" <= letter < "\u1e00":
        return "PHONETIC"  # small capitals and the like, called Latin
    named = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _NAMED_OTHERWISE.get(named, named)


def _one_script(scripts: set[str]) -> bool:
    return len(scripts) <= 1 or any(scripts <= together for together in _TOGETHER)


_RESERVED_SKELETONS = frozenset(skeleton(name) for name in RESERVED)
