"""The annotation store: an append-only judgement log, the tasks of its raters, and what follows from both.

`AnnotationStore` is what programs use; `import_tables` fills it, `export_tables` writes what stands in it, and `status`
counts. One schema serves SQLite (one file, the default) and PostgreSQL (by URL).
"""

from poise.annotate.store.chain import Checked
from poise.annotate.store.exporting import export_tables
from poise.annotate.store.importing import import_tables
from poise.annotate.store.overlap import OverlapPolicy
from poise.annotate.store.queue import Task
from poise.annotate.store.status import Status, status
from poise.annotate.store.store import AnnotationStore

__all__ = [
    "AnnotationStore",
    "Checked",
    "OverlapPolicy",
    "Status",
    "Task",
    "export_tables",
    "import_tables",
    "status",
]
