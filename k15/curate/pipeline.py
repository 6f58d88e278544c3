"""The stages that need no model, one after the other; each takes rows and gives the rows that are left, and fills the funnel."""

from collections.abc import Callable, Sequence
from pathlib import Path

from k15.config.curate import CurateConfig
from k15.curate.duplicates import contaminated, contradictions, duplicates
from k15.curate.funnel import Funnel, lost
from k15.curate.kinds import multiple_choice, proof, true_false
from k15.curate.rows import Row, read, read_held_out
from k15.curate.sources import BadRow
from k15.errors import DataError
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.reward.hacking import leaks_answer
from k15.types import Prompt

_LOGGED = 5


def as_prompt(row: Row) -> Prompt:
    return Prompt(row.id, row.text, row.answer, row.domain)


def read_sources(cfg: CurateConfig, funnel: Funnel, bad_rows: Path) -> list[Row]:
    """All good rows of `cfg.sources`, ids unique. Raises DataError for the first bad one unless on_bad_row is `skip`: then all
    that are left out are in the file `bad_rows`, a line `place<TAB>reason` each, which is there only if there are any."""
    rows: dict[str, Row] = {}
    dropped: list[tuple[str, str, str, str]] = []
    bad: list[BadRow] = []
    for source in cfg.sources:
        for row in read(source, cfg.fields):
            first, alike = rows.get(row.id) if isinstance(row, Row) else None, False
            if isinstance(row, Row) and not row.answer and not cfg.filters.proof:
                row = BadRow(row.where, "asks for a proof, which filters.proof=false keeps, but has no answer")
            if isinstance(row, Row) and first is None:
                rows[row.id] = row
                continue
            if isinstance(row, Row) and (first.text, first.answer) == (row.text, row.answer):
                dropped.append(lost("repeated row", row, f"is {first.where}"))  # harmless, unlike one id for two problems
                continue
            if isinstance(row, Row):
                alike = not first.where.startswith(f"{source}:")  # two files that number their rows from 0
                by_content = "; ids that follow from the content: fields.id=null" if alike else ""
                row = BadRow(row.where, f"id {row.id!r} was used by {first.where} for another problem{by_content}")
            if cfg.on_bad_row == "error":
                remedy = "" if alike else " Correct it, or leave such rows out with on_bad_row=skip."
                raise DataError(f"{row.where}: {row.reason}.{remedy}")
            dropped.append(("duplicate id" if first is not None else "unreadable", row.where, row.reason, ""))
            bad.append(row)
    _tell(bad, bad_rows)
    if not rows:
        raise DataError(f"{', '.join(cfg.sources)}: there is no usable row.")
    funnel.add("read", "JSON, a prompt, a final answer, an id of its own", len(rows), dropped)
    return list(rows.values())


def _tell(bad: Sequence[BadRow], path: Path) -> None:
    """In the log the first of them, all in the file."""
    path.unlink(missing_ok=True)  # of an earlier start
    if not bad:
        return
    text = "".join(f"{row.where}\t{' '.join(row.reason.split())}\n" for row in bad)
    atomic_write(path, text.encode(errors="backslashreplace"))
    log = get_logger("curate")
    for row in bad[:_LOGGED]:
        log.warning("skipped: %s: %s", row.where, row.reason)
    log.warning("%d bad rows skipped; all of them: %s", len(bad), path)


def without_kinds(rows: Sequence[Row], cfg: CurateConfig, funnel: Funnel) -> list[Row]:
    """No multiple choice, true/false, proof (report 2.1)."""
    on = cfg.filters
    rules: dict[str, Callable[[Row], str | None]] = {
        name: rule
        for name, rule, wanted in (
            ("multiple choice", multiple_choice, on.multiple_choice),
            ("true/false", true_false, on.true_false),
            ("proof", proof, on.proof),
        )
        if wanted
    }
    return _filter(rows, rules, funnel, "kind", f"no {', '.join(rules)}" if rules else "off")


def without_leaks(rows: Sequence[Row], cfg: CurateConfig, funnel: Funnel) -> list[Row]:
    """No prompt that states its answer. Code, whose answer is a set of tests, states none."""
    rules = {"leak": lambda row: None if row.domain == "code" else leaks_answer(as_prompt(row))} if cfg.filters.leaks else {}
    return _filter(rows, rules, funnel, "leak", "the prompt does not state its answer" if rules else "off")


def _filter(rows: Sequence[Row], rules, funnel: Funnel, name: str, rule: str) -> list[Row]:
    kept, dropped = [], []
    for row in rows:
        found = next(((kind, why) for kind, check in rules.items() if (why := check(row)) is not None), None)
        if found is None:
            kept.append(row)
        else:
            dropped.append(lost(found[0], row, found[1]))
    funnel.add(name, rule, len(kept), dropped)
    return kept


def without_duplicates(rows: Sequence[Row], cfg: CurateConfig, funnel: Funnel) -> list[Row]:
    """The first of each problem; none of those whose copies have different answers."""
    limit = cfg.filters.near_duplicates
    differ = contradictions(rows)
    dropped = [
        lost("contradiction", rows[i], f"this text has different answers: {rows[a].where} and {rows[b].where}")
        for i, (a, b) in differ.items()
    ]
    rest = [row for i, row in enumerate(rows) if i not in differ]
    twice = duplicates(rest, limit, cfg.seed)
    dropped += [
        lost("exact" if s == 1 else "near", rest[i], f"is {rest[j].where} (similarity {s:.2f})") for i, (j, s) in twice.items()
    ]
    kept = [row for i, row in enumerate(rest) if i not in twice]
    rule = f"same text; or same answer, and same words or similarity >= {limit:g}; one text with two answers: all leave"
    funnel.add("duplicate", rule, len(kept), dropped)
    return kept


def without_evaluation(rows: Sequence[Row], cfg: CurateConfig, funnel: Funnel) -> list[Row]:
    """Nothing that an evaluation set holds. Bad rows of evaluation sets are fatal, as is a set without a row: they could hide a
    problem."""
    held: list[Row] = []
    for source in cfg.evaluation:
        before = len(held)
        for row in read_held_out(source, cfg.fields.evaluation_prompt):
            if isinstance(row, BadRow):
                raise DataError(f"{row.where}: {row.reason}. Evaluation sets must be whole; correct the row, or name the column "
                                "of the problems: fields.evaluation_prompt=NAME.")  # fmt: skip
            held.append(row)
        if len(held) == before:
            raise DataError(f"{source}: an evaluation set of no rows, with which nothing can be compared. Name the file, or "
                            "leave it out of evaluation=[...].")  # fmt: skip
    found = contaminated(rows, held, cfg.filters.contamination, cfg.filters.contamination_ngram, cfg.seed) if held else {}
    kinds = {"is like": "near", "shares": "words in a row"}
    dropped = [
        lost(next((k for start, k in kinds.items() if why.startswith(start)), "exact"), rows[i], why) for i, why in found.items()
    ]
    kept = [row for i, row in enumerate(rows) if i not in found]
    rule = "no evaluation set given"
    if held:
        run = f" and no {cfg.filters.contamination_ngram} words in a row shared" if cfg.filters.contamination_ngram else ""
        rule = f"similarity < {cfg.filters.contamination:g}{run} with {len(held):,d} evaluation prompts"
    funnel.add("contamination", rule, len(kept), dropped)
    return kept
