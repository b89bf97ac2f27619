"""The annotation store: an append-only judgement log, the tasks of its raters, and what follows from both.

`AnnotationStore` is what programs use; `import_tables` fills it, `export_tables` writes what stands in it,
`export_tasks` and `import_answers` are the way to another tool and back, `back_up` copies it, and `status` counts. One
schema serves SQLite (one file, the default) and PostgreSQL (by URL).
"""

from poise.annotate.store.answers_in import import_answers
from poise.annotate.store.backup import back_up
from poise.annotate.store.chain import Checked
from poise.annotate.store.exporting import export_tables
from poise.annotate.store.importing import import_tables
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.overlap import OverlapPolicy
from poise.annotate.store.pseudonyms import make_key, read_key
from poise.annotate.store.queue import Answered, Task
from poise.annotate.store.status import Status, status
from poise.annotate.store.store import AnnotationStore
from poise.annotate.store.tasks_out import export_tasks

__all__ = [
    "AnnotationStore",
    "Answered",
    "Checked",
    "JointPolicy",
    "OverlapPolicy",
    "Status",
    "Task",
    "back_up",
    "export_tables",
    "export_tasks",
    "import_answers",
    "import_tables",
    "make_key",
    "read_key",
    "status",
]
