"""The tables of the annotation store, one schema for SQLite and PostgreSQL; `migrations` makes them.

Texts, items, raters and events are only ever added. `final` and `task` say what follows from the log under the overlap
policy of the store and can be computed again from it; leases, drafts, skips and opt-outs are the queue's own.

Integer keys are for joins inside one file; what leaves the store, and what is hashed, are content hashes and names.
Times are milliseconds since 1970 in UTC. JSON is text in canonical form, so that both databases hold the same bytes.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A 64-bit key; SQLite numbers rows by itself only where the type says INTEGER."""

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""The overlap policy and the name of the store."""

edition = sa.Table(
    "edition",
    metadata,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("guidelines", sa.Text, nullable=False),
)
"""Hash of all guideline pages -> JSON of category code and page version: what a judgement's `policy` meant."""

text = sa.Table(
    "text",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("body", sa.Text, nullable=False),
)
"""Each text once, as a JSON string, since PostgreSQL holds no NUL."""

item = sa.Table(
    "item",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("prompt", ID, sa.ForeignKey("text.id"), nullable=False),
    sa.Column("response_0", ID, sa.ForeignKey("text.id"), nullable=False),
    sa.Column("response_1", ID, sa.ForeignKey("text.id")),
    sa.Column("qa_0", ID, sa.ForeignKey("item.id")),
    sa.Column("qa_1", ID, sa.ForeignKey("item.id")),
    sa.Column("hash_0", sa.Text, nullable=False),
    sa.Column("hash_1", sa.Text),
    sa.Column("thread", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "key"),
    sa.Index("item_qa_0", "qa_0"),
    sa.Index("item_qa_1", "qa_1"),
    sa.Index("item_thread", "thread", "kind"),
    sa.Index("item_hash", "hash_0"),
)
"""What is judged: "qa", "pair" or "single". `key` hashes the content, `hash_*` are the public response hashes, `thread`
hashes the conversation that answers share, `record` is JSON of what the row carries along."""

rater = sa.Table(
    "rater",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "kind", "version"),
)
"""A person, a model with prompt and parameters (`version`), a rule or an import."""

event = sa.Table(
    "event",
    metadata,
    sa.Column("seq", ID, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("item", ID, sa.ForeignKey("item.id"), nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("target", ID, sa.ForeignKey("event.seq")),
    sa.Column("pins", sa.Text),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("guideline", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("shown", sa.Text),
    sa.Column("client_ms", ID),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("at_ms", ID, nullable=False),
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("token", "question"),
    sa.Index("event_current", "item", "question", "rater", "seq"),
    sa.Index("event_rater", "rater", "item"),
    sa.Index("event_target", "target"),
    sa.Index(
        "event_adjudicated",
        *("item", "question", "seq"),
        sqlite_where=sa.text("kind = 'adjudicate'"),
        postgresql_where=sa.text("kind = 'adjudicate'"),
    ),
    sa.Index(
        "event_checked",
        *("item", "question", "rater", "seq"),
        sqlite_where=sa.text("kind = 'check'"),
        postgresql_where=sa.text("kind = 'check'"),
    ),
)
"""The judgement log; triggers refuse to change or delete a row. See `poise.annotate.store.chain.Event`."""

final = sa.Table(
    "final",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("question", sa.Text, primary_key=True),
    sa.Column("value", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("version", ID, nullable=False),
    sa.Column("pins", sa.Text),
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Column("cyclic", sa.Boolean, nullable=False),
)
"""The label or choice that stands, why it stands (`source`), the event since which it does (`version`), for "safer" the
label versions it rests on, whether enough was asked for it to count (`settled`), and whether it is part of a cycle."""

task = sa.Table(
    "task",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("have", sa.Integer, nullable=False),
    sa.Column("asks", sa.Text, nullable=False),
    sa.Column("stale", sa.Boolean, nullable=False),
    sa.Index("task_queue", "state", "stage", "priority", "item"),
)
"""One for each item: "waiting" (for labels), "open", "adjudicate" or "done"; how many people are wanted and have
answered the question that has fewest answers; `asks`: JSON list of the questions that are still asked. The lowest
`priority` goes first."""

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("token", sa.Text, primary_key=True),
    sa.Column("item", ID, sa.ForeignKey("item.id"), nullable=False),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), nullable=False),
    sa.Column("expires_ms", ID, nullable=False),
    sa.Column("asks", sa.Text, nullable=False),
    sa.Column("pins", sa.Text),
    sa.Column("adjudicate", sa.Boolean, nullable=False),
    sa.Column("revealed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("probe", sa.Text),
    sa.UniqueConstraint("item", "rater"),
    sa.Index("lease_rater", "rater"),
)
"""Who has been given what until when, which questions, which label versions stood then, and whether the blind answer is
given and the suggestion shown; `probe` is the kind of a hidden check ("gold", "repeat", "swap") and null for a task."""

gold = sa.Table(
    "gold",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("answers", sa.Text, nullable=False),
    sa.Column("labels", sa.Text),
    sa.Column("data", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("since", ID, nullable=False),
    sa.Column("history", sa.Text, nullable=False),
)
"""Items whose answer is known. `answers`: JSON of question -> value; `labels`: JSON of a pair's two labels; `data`:
whether the item is also data (otherwise it has no task and is in no export); `state`: "active", "review" or "retired";
answers up to event `since` raise no doubt any more; `history`: JSON list of what was decided about it."""

probe = sa.Table(
    "probe",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("given_ms", ID, nullable=False),
    sa.Column("answered", sa.Boolean, nullable=False),
    sa.Index("probe_rater", "rater", "answered"),
)
"""Hidden checks that were given to somebody, at most one for each item and rater; and whether there is an answer that
was not taken back."""

turn = sa.Table(
    "turn",
    metadata,
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("given", sa.Integer, nullable=False),
)
"""How many tasks a person was given while checks were served: what the next draw is a hash of."""

showing = sa.Table(
    "showing",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("question", sa.Text, primary_key=True),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("clear", sa.Boolean, nullable=False),
    sa.Column("planted", sa.Boolean, nullable=False),
    sa.Column("source", ID, sa.ForeignKey("event.seq"), nullable=False),
    sa.Column("pins", sa.Text),
)
"""What a person is shown about a question, or would have been in the control arm: fixed when the task is first given.
`clear`: all who had judged the item agreed; `planted`: `value` is wrong on purpose; `source`: the model's judgement."""

draft = sa.Table(
    "draft",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at_ms", ID, nullable=False),
)
"""An unfinished answer, JSON; it outlives its lease."""

skip = sa.Table(
    "skip",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
)
"""What a rater does not want to answer."""

training_round = sa.Table(
    "training_round",
    metadata,
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("items", sa.Text, nullable=False),
    sa.Column("passed", sa.Boolean),
    sa.Column("at_ms", ID, nullable=False),
)
"""A round of practice: JSON list of the items drawn when it began; `passed` is null until it ends."""

training_answer = sa.Table(
    "training_answer",
    metadata,
    sa.Column("rater", ID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at_ms", ID, nullable=False),
    sa.ForeignKeyConstraint(["rater", "number"], ["training_round.rater", "training_round.number"]),
)
"""The answer to a practice item, which is no judgement and never enters the log."""

blind_vote = sa.Table(
    "blind_vote",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("question", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at_ms", ID, nullable=False),
)
"""What an adjudicator said before seeing what others had said; the first vote stands."""

hint = sa.Table(
    "hint",
    metadata,
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("category", sa.Text, primary_key=True),
)
"""Categories that anybody has named for an item or that its prompt was written for: what opt-outs are checked on."""

opt_out = sa.Table(
    "opt_out",
    metadata,
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("category", sa.Text, primary_key=True),
)
"""Categories that a person is not shown."""

account = sa.Table(
    "account",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), nullable=False, unique=True),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, unique=True),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("preferences", sa.Text, nullable=False),
    sa.Column("break_ms", ID, nullable=False),
    sa.Column("made_ms", ID, nullable=False),
)
"""Who may sign in to the workbench; `name` never leaves the store, `rater` holds the pseudonym. `token_hash` is of a
personal token, `preferences` JSON, `break_ms` when the last break ended."""

session = sa.Table(
    "session",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("account", ID, sa.ForeignKey("account.id"), nullable=False),
    sa.Column("expires_ms", ID, nullable=False),
    sa.Column("warned", sa.Boolean, nullable=False),
    sa.Index("session_account", "account"),
)
"""Who is signed in; `warned`: has read what kind of text comes."""

invitation = sa.Table(
    "invitation",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("expires_ms", ID, nullable=False),
    sa.Column("used_ms", ID),
)
"""Links that make one account each."""

exposure = sa.Table(
    "exposure",
    metadata,
    sa.Column("rater", ID, sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("item", ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("again", sa.Boolean, primary_key=True),
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("at_ms", ID, nullable=False),
    sa.Column("severe", sa.Boolean, nullable=False),
    sa.Index("exposure_day", "rater", "day"),
)
"""What each person has read and when last, for the budget of a day; `again`: as a hidden check of something answered
before. The person's own, never exported."""
