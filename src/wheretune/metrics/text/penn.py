"""A stand-in, in plain Python, for the words of the Penn Treebank as CoreNLP 3.4.1 divides them.

METEOR, ROUGE-L and CIDEr of the E2E challenge (and of COCO) are computed on these, in lower case and without
punctuation. The tokenizers of NLTK divide more than half of E2E's lines otherwise. `docs/judging.md` says how often
this one differs from CoreNLP.

At each place the longest of the `KINDS` is a word; of those as long, the first.
"""

from __future__ import annotations

import re
from functools import cache

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Punctuation that counts as no word. The scorer's list has the brackets too, in capitals, so `-lrb-` stays."""

MONTHS = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
DAYS = "mon|tues?|wed|thu|thurs|fri"
STATES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
)
WORDS_TOO = "Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"  # states that are words where they begin small
FIRMS = "inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys|jr|bros|esq|etc|al|seq|bldg|tel|est|ext|sq"
TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut"
    "|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc"
    "|invt|elec|natl|m[ft]g|dept|blvd|rd|vs|alex|wm|jos|cie|ph"
)
BEFORE_NUMBERS = "ca|figs?|prop|nos?|sect?s?|arts?|paras?|pp|op"
LETTER = r"[^\W\d_]"
SIGN = rf"(?:{LETTER}|\d)"
QUOTE = "['’´]"
ANY_QUOTE = "['’´`‘‛]"
CLITIC = rf"{QUOTE}(?i:[msd]|re|ve|ll)"
NEGATION = rf"[nN]{ANY_QUOTE}[tT]"
NUMBER = r"\d*(?:[.:,]?\d+)(?:[.:,]\d+)*"
PART = rf"(?:[dDoOlL]{ANY_QUOTE})?{SIGN}+"  # of a word with dashes, which may begin as d'Avignon does
SITE = "[^ \"`'<>|.!?(){},\\-_$]+"

STARTERS = (  # words that, with a capital, begin a sentence, so that the dot before them is no initial's
    "About|According|Additionally|After|An?|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr.|Ms."
    "|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|While|What|Yet|You"
)
STARTER = rf"(?=[A-Z])(?i:{STARTERS})"

KINDS: dict[str, str] = {  # `ahead` is no part of the word, and counts for the length
    "contracted": rf"{LETTER}{SIGN}*(?:[.!?]{LETTER}{SIGN}*)*(?=(?P<ahead>{CLITIC}))",  # dog before 's
    "negated": rf"{LETTER}*[A-MO-Za-mo-z](?=(?P<ahead>{NEGATION}))",  # is before n't
    "word": rf"{LETTER}{SIGN}*(?:[.!?]{LETTER}{SIGN}*)*",
    "with quote": rf"{QUOTE}[nN](?:{QUOTE}|(?!{LETTER}))|[lLdDjJ]{QUOTE}|{QUOTE}[eE]m"
    rf"|[A-HJ-XZn]{ANY_QUOTE}{LETTER}{{2,}}|{LETTER}+[aeiouyAEIOUY]{ANY_QUOTE}[aeiouA-Z]{LETTER}*|{QUOTE}[2-9]0[sS]"
    rf"|(?i:{QUOTE}till?|{QUOTE}cause|cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l"
    rf"|ol{QUOTE}|somethin{QUOTE}|dunkin{QUOTE}|cap{QUOTE}n|c{QUOTE}est)",
    "quoted y": rf"[yY]{QUOTE}(?=(?P<ahead>{LETTER}))",
    "address": r"(?i:(?:ftp|https?)://[^ \"<>|(){}]+[^ \"'<>|.!?(){},\-])",
    "site": rf"(?i:www\.(?:[^ \"<>|.!?(){{}},]+\.)+[a-z]{{2,4}}|(?:{SITE}\.)+(?:com|net|org|edu))"
    r"(?:/[^ \"<>|()]+[^ \"<>|.!?(){},\-])?",
    "mail": r"[a-zA-Z0-9][^ \"<>|()]*@(?:[^ \"<>|(){}.]+\.)*[^ \"<>|(){}.]+|[@#][a-zA-Z_]\w*",
    "clitic": rf"(?:{CLITIC}|{NEGATION})(?!{LETTER})",
    "number": rf"[-+]?{NUMBER}|[¼½¾⅓⅔]",
    "date": r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
    "fraction": r"(?:\d{1,4}[- ])?\d{1,4}\\?/\d{1,4}",
    "telephone": r"(?:\(\d{2,3}\) ?|(?:\+\+?)?(?:\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5}",
    "language": r"[cC]\+\+|[cCfF]#",
    "with slash": rf"{SIGN}+(?:-{LETTER}+){{0,2}}(?:\\?/{SIGN}+(?:-{LETTER}+){{0,2}}){{1,2}}",
    "currency": r"[A-Z]*\$|[#¢£¤¥€]",
    "initial": rf"[A-Za-z](?=(?P<ahead>\.(?: +{STARTER}(?: |$)|$)))",
    "acronym": r"[A-Za-z](?:\.[A-Za-z])*\.",
    "abbreviation": rf"(?i:{MONTHS}|{DAYS}|{STATES}|{FIRMS}|{TITLES}|ph\.d|ed\.d|a\.k\.a)\.|(?:{WORDS_TOO})\."
    rf"|(?i:{BEFORE_NUMBERS})\.(?=(?P<ahead> ?\d))",
    "before a comma": rf"{LETTER}{SIGN}*(?:[.!?]{LETTER}{SIGN}*)*\.(?=(?P<ahead>[,;:]))",
    "with dash": rf"{SIGN}(?:{SIGN}|[.,])*(?:-{SIGN}+)+",
    "with marks": rf"(?:{PART}|{NUMBER})(?:[-_‐‑]{PART})*",
    "decade": rf"{QUOTE}\d\d(?=(?P<ahead> |$))",
    "smiley": rf"[<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]](?=(?P<ahead>(?!{SIGN}).|$))",
    "quotation": r"\"|``|''|[“”„«»]|[`'‘’‹›‛]",
    "dots": r"\.\.\.+|…",
    "dashes": r"-(?i:[lr][rcs]b)-|-+|[–—―]",
    "marks": r"[?!]+|\*+|@+|_+|#+|<<|>>",
    "firm": r"[A-Z]+(?:[+&][A-Z]+)+",
}
PLAIN = {"£": "#", "¢": "cents", "¤": "$", "€": "$", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-"}
PLAIN |= {"{": "-lcb-", "}": "-rcb-", "–": "--", "—": "--", "―": "--", "…": "...", "¼": "1/4", "½": "1/2", "¾": "3/4"}
PLAIN |= {"⅓": "1/3", "⅔": "2/3", "---": "--", "----": "--"} | dict.fromkeys('"“”„«»‘’‹›‛', "'")
SPLIT = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3, "'tis": 2, "'twas": 2}
STRAIGHT = str.maketrans(dict.fromkeys("’´‘‛", "'") | {" ": "\N{NO-BREAK SPACE}", "(": "-lrb-", ")": "-rrb-"})
ENTITIES = {"&amp;": "&", "&quot;": '"', "&apos;": "'", "&lt;": "<", "&gt;": ">"}


@cache
def _kinds() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(kind) for kind in KINDS.values())


def _reach(match: re.Match[str]) -> int:
    """Where a match ends, with what it looks ahead at."""
    return max(match.end(), match.end("ahead") if "ahead" in match.re.groupindex else 0)


def penn_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return [word for word in map(str.lower, scanned(text)) if word not in DROPPED]


def scanned(text: str) -> list[str]:
    """The words and marks of a text."""
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    found, place = [], 0
    while place < len(text):
        if not text[place].isprintable() or text[place].isspace():
            place += 1
            continue
        matches = [match for kind in _kinds() if (match := kind.match(text, place))]
        longest = max(matches, key=_reach, default=None)
        word = text[place] if longest is None else longest[0]
        word = word[: SPLIT.get(word.lower(), len(word))]
        place += len(word)
        word = "..." if word.startswith("...") else word
        found.append(PLAIN.get(word) or word.translate(STRAIGHT))
    return found
