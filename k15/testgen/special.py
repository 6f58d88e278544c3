"""Does a problem need a special judge, by its statement? Such problems are left out. Report, section 2.3.5.

The second way to find out is measured: right submissions that disagree in the right format (`agree`, kind "disputed").
"""

import re

_ANSWER = (
    "(?:answers?|solutions?|outputs?|ways?|sequences?|permutations?|paths?|arrays?|strings?|sets?|subsets?|orders?|orderings?|"
    "arrangements?|assignments?|constructions?|plans?|colou?rings?|partitions?|matchings?|trees?|pairs?|schedules?|routes?|numbers?)"
)
_VERB = "(?:print|output|report|find|give|return|choose|write|construct|produce)"
_GOOD = "(?:correct |valid |possible |optimal |such |right )?"
_RULES = (
    rf"\b(?:multiple|several|many|more than one)\b[^.\n]{{0,40}}\b{_ANSWER}\b[^.\n]{{0,60}}\b(?:any|either|whichever|one of)\b",
    rf"\b{_VERB}\b[^.\n]{{0,20}}\bany\b(?! number of)[^.\n]{{0,60}}(?:\b{_ANSWER}\b|[.;,)]|$)",
    rf"\bany\b[^.\n]{{0,30}}\b{_ANSWER}\b[^.\n]{{0,40}}\b(?:is|are|will be) (?:accepted|fine|allowed|ok|okay|correct|enough)\b",
    rf"\b(?:multiple|several|all) {_GOOD}{_ANSWER}\b[^.\n]{{0,30}}\b(?:is|are|will be) accepted\b",
    r"\b(?:special judge|special checker|custom checker|special judging)\b",
    r"\bin any order\b",
    r"\bthis is an interactive problem\b",
)
_COMPILED = tuple(re.compile(rule, re.IGNORECASE) for rule in _RULES)
_HEADING = re.compile(r"^(?:#.*|\W*output(?: format)?\W*)$", re.IGNORECASE | re.MULTILINE)
_INPUT = re.compile(r"^\W*(?:input|input format)\W*$", re.IGNORECASE | re.MULTILINE)
_OUTPUT = re.compile(r"^\W*(?:output|output format)\W*$", re.IGNORECASE | re.MULTILINE)


def several_answers(statement: str) -> str | None:
    """The words that say that more than one output is right, or None.

    What stands under a heading "Input", up to "Output", is not looked at: an order there says nothing about answers.
    """
    text = " ".join(_HEADING.sub(".", _without_input(statement)).split())
    for rule in _COMPILED:
        found = rule.search(text)
        if found:
            return found.group(0)
    return None


def _without_input(statement: str) -> str:
    start = _INPUT.search(statement)
    if start is None:
        return statement
    end = _OUTPUT.search(statement, start.end())
    return statement[: start.start()] + (statement[end.start() :] if end is not None else "")
