"""The workbench: pages on which people judge what the annotation store holds, for `poise annotate serve`.

`create_app(store, settings)` makes the application (Starlette, server-rendered, small plain scripts, no outside host).
It is put together of page modules; each has a list `ROUTES`, and `app.MODULES` names them. A page is a plain function:

    @signed_in(role="lead")                            # at least this role; GET and POST
    def dashboard(visit: Visit) -> Response:
        rows = ...visit.desk.store...                  # blocking calls are fine: it runs in a thread
        return visit.render("dashboard.html", rows=rows)

    ROUTES = [Route("/dashboard", dashboard, methods=["GET"])]
    NAV = [Link("/dashboard", "Progress", role="lead")]

* `visit` (see `visit.Visit`) holds the request, `desk` (store, settings, accounts), `who` (the `Account`), and on a
  POST `sent`, the form's fields. `signed_in` has checked session, role, CSRF token, origin and rate before.
* A form carries `{{ csrf_field }}`; a script sends the header `x-csrf-token` with `document.body.dataset.csrf`, and
  `accept: application/json` when it wants {"error": sentence} instead of a page.
* `visit.render(template, **values)` fills a template that extends `base.html`; `visit.go(path)` is the answer to a
  POST; `raise Refused(status, text)` shows a plain page; a `PoiseError` of the store is shown as its one line.
* Text that raters or models wrote goes through the filter `plain` (`{{ text | plain }}`), which escapes it and makes
  what is invisible visible; `text.html` has the macro `box` for long ones.
* Scripts and styles are files in `static/`; the pages forbid inline ones. `static/workbench.js` exports `onKey`,
  `send`, `say` and `hide`. The keys `u x v t z ?` and Enter mean the same on every screen on which items are judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise.annotate.workbench.settings import ROLES, STAGES, Settings
from poise.errors import PoiseError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from poise.annotate.store import AnnotationStore

__all__ = ["ROLES", "STAGES", "Settings", "create_app"]


def create_app(store: AnnotationStore, settings: Settings | None = None) -> Starlette:
    """The application over an open store, which the caller closes.

    Raises:
        PoiseError: the extra "serve" is not installed (exit code 3).
    """
    try:
        import python_multipart  # noqa: F401 -- Starlette asks for it when the first form comes

        from poise.annotate.workbench.app import build
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("starlette", "python_multipart"):
            raise
        raise PoiseError(
            "the workbench needs Starlette and uvicorn", where="serve", do="pip install -e '.[serve]'", exit_code=3
        ) from error
    return build(store, settings or Settings())
