"""Records -> a corpus: from rows that stand alone to rows that refer to each other, which the pipeline works on.

Ids are made from texts, every label becomes a judgement by the rater `import:<data set>`, and equal texts become one
row while each judgement stays. Left out, because a corpus has no place for it: turns, images, labels in another
taxonomy, and single raters.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from poise.data.corpus import Corpus, pair_row
from poise.data.records import DualRecord, PartialLabel, PromptRecord, QARecord, Record, SingleRecord
from poise.data.rows import Judgement, PairRow, PromptRow, Provenance, QARow, Rater, Split, label_value, text_id
from poise.harm import Label


class CorpusBuilder:
    """Collects one source's records.

    Args:
        name: the data set; the rater is `import:<name>`.
        keep_order: response 0 of a pair stays response 0; otherwise the response with the smaller id becomes 0, so
            that the position tells nothing about which one a source called chosen.
    """

    def __init__(self, name: str, *, keep_order: bool) -> None:
        self.name, self.keep_order = name, keep_order
        self.rater = Rater(id=f"import:{name}", kind="import")
        self.judgements: list[Judgement] = []
        self.dropped: Counter[str] = Counter()
        self._prompts: dict[str, PromptRow] = {}
        self._qa: dict[str, QARow] = {}
        self._pairs: dict[str, PairRow] = {}

    def add(self, record: Record) -> None:
        """Take in a prompt, QA or pair record that a corpus can hold; judgements and corrections have no place here.

        A row that breaks the data's own rules, or of which nothing is known that a corpus has a question for, is
        counted in `dropped` with the reason.
        """
        if isinstance(record, PromptRecord):
            self._prompt(record, record.prompt, record.source, record.kind)
        elif isinstance(record, QARecord | SingleRecord):
            if reason := _unfit(record):
                self.dropped[reason] += 1
            elif isinstance(record, QARecord):
                prompt_id = self._prompt(record, record.prompt, record.prompt_source, "unknown")
                row = self._answer(record, prompt_id, record.prompt, record.response, record.response_source)
                self._judge_label(row.id, record.label)
            else:
                self._pair(record)

    def corpus(self) -> Corpus:
        """What was collected."""
        return Corpus(
            prompts=list(self._prompts.values()),
            qa=list(self._qa.values()),
            pairs=list(self._pairs.values()),
            judgements=self.judgements,
            raters=[self.rater],
            dropped=dict(sorted(self.dropped.items())),
        )

    def _prompt(self, record: Record, text: str, source: str | None, kind: Any) -> str:
        row_id = text_id("p", text)
        if row_id not in self._prompts:
            made = Provenance(source=source or self.name, licence=record.licence)
            split: Split = record.split or "train"
            self._prompts[row_id] = PromptRow(id=row_id, prompt=text, kind=kind, split=split, provenance=made)
        return row_id

    def _answer(self, record: Record, prompt_id: str, prompt: str, response: str, source: str | None) -> QARow:
        row_id = text_id("qa", prompt, response)
        if row_id not in self._qa:
            self._qa[row_id] = QARow(
                id=row_id,
                prompt_id=prompt_id,
                prompt=prompt,
                response=response,
                split=record.split or "train",
                provenance=Provenance(source=source or self.name, licence=record.licence),
            )
        return self._qa[row_id]

    def _pair(self, record: SingleRecord) -> None:
        prompt_id = self._prompt(record, record.prompt, record.prompt_source, "unknown")
        answers = [
            self._answer(record, prompt_id, record.prompt, text, source)
            for text, source in zip(record.responses, record.response_sources, strict=True)
        ]
        row = pair_row(answers[0], answers[1], keep_order=self.keep_order)
        row = self._pairs.setdefault(row.id, row)
        votes = {"single": record.better}
        if isinstance(record, DualRecord):
            votes = {"better": record.better, "safer": record.safer}
            for answer, label in zip(answers, record.labels, strict=True):
                self._judge_label(answer.id, label)
        for question, vote in votes.items():
            if vote is not None:
                self._judge(row.id, question, 0 if answers[vote].id == row.qa_0 else 1)

    def _judge_label(self, item: str, label: PartialLabel) -> None:
        if label.flags() is not None and label.severity is not None and not label.undecided:
            self._judge(item, "label", label_value(Label.of(label.categories or (), label.severity)))
        elif label.safe is not None:
            self._judge(item, "safe", label.safe)

    def _judge(self, item: str, question: Any, value: object) -> None:
        self.judgements.append(Judgement(item=item, question=question, value=value, rater=self.rater.id))


def _unfit(record: QARecord | SingleRecord) -> str | None:  # noqa: PLR0911 - one reason a line
    """Why a corpus can't hold a record, None where it can."""
    texts = [record.prompt, *(record.responses if isinstance(record, SingleRecord) else (record.response,))]
    labels = [record.label] if isinstance(record, QARecord) else []
    labels = list(record.labels) if isinstance(record, DualRecord) else labels
    votes = [] if isinstance(record, QARecord) else [record.better]
    votes += [record.safer] if isinstance(record, DualRecord) else []
    told = [label for label in labels if label.safe is not None or label.severity is not None]
    if not all(text.strip() for text in texts):
        return "a text is blank"
    if len(texts) == 3 and texts[1] == texts[2]:
        return "the two responses are equal"
    if any(vote not in (None, 0, 1) for vote in votes):
        return "a vote is neither 0 nor 1"
    if not told and all(vote is None for vote in votes):
        return "nothing is judged"
    if any(map(_contradicts_itself, told)):
        return "the safe flag, the severity and the harm categories disagree"
    if isinstance(record, DualRecord) and record.safer is not None:
        safe = [label.safe for label in record.labels]
        if None not in safe and safe[0] != safe[1] and not safe[record.safer]:
            return "the unsafe response is called safer than the safe one"
    return None


def _contradicts_itself(label: PartialLabel) -> bool:
    """Whether two known facts contradict each other, or the severity is none."""
    flags = set((label.flags() or {}).values())
    told = {label.safe, None if label.severity is None else label.severity == 0}
    told.add(False if True in flags else True if flags == {False} else None)
    return len(told - {None}) > 1 or label.severity not in (None, 0, 1, 2, 3)
