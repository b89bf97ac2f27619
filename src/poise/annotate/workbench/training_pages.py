"""The pages of training: /training shows the next practice item, the feedback on the last one, or the result."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.workbench.adjudication import Voice, comparison
from poise.annotate.workbench.desk import Link
from poise.annotate.workbench.forms import answer_form, sent_values
from poise.annotate.workbench.guidelines import letter_of
from poise.annotate.workbench.showing import before_texts, sentence, shown_texts
from poise.annotate.workbench.training import Feedback, Practice, Training
from poise.annotate.workbench.visit import Visit, signed_in
from poise.data.rows import label_value
from poise.errors import PoiseError
from poise.harm import CATEGORIES


@signed_in()
def show(visit: Visit) -> Response:
    """The next item, or where the person stands."""
    return before_texts(visit) or _page(visit, practice=Training(visit.desk.store).next(visit.who.rater))


@signed_in()
def begin(visit: Visit) -> Response:
    """Begin a round."""
    Training(visit.desk.store).begin(visit.who.rater)
    return visit.go("/training")


@signed_in()
def answer(visit: Visit) -> Response:
    """Answer an item."""
    training, item = Training(visit.desk.store), visit.text("item")
    try:
        training.answer(visit.who.rater, item, sent_values(visit.sent, ["label"])["label"])
    except PoiseError as error:
        if error.exit_code != 2:
            raise
        return _page(visit, practice=training.next(visit.who.rater), message=sentence(error), status=422)
    return visit.go(f"/training/feedback/{item}")


@signed_in()
def feedback(visit: Visit) -> Response:
    """How the answer to an item of the present round differs from the known one."""
    told = Training(visit.desk.store).feedback(visit.who.rater, visit.request.path_params["item"])
    return visit.go("/training") if told is None else _page(visit, feedback=told)


def _page(
    visit: Visit,
    *,
    practice: Practice | None = None,
    feedback: Feedback | None = None,
    message: str = "",
    status: int = 200,
) -> Response:
    training = Training(visit.desk.store)
    return visit.render(
        "training.html",
        status,
        progress=training.progress(visit.who.rater),
        training=training.settings(),
        message=message,
        practice=practice,
        feedback=feedback,
        **_item(visit, practice, feedback),
    )


def _item(visit: Visit, practice: Practice | None, feedback: Feedback | None) -> dict[str, Any]:
    if feedback is not None:
        known = feedback.practice
        right = Voice("known", "", {"label": label_value(known.label)}, {}, frozenset())
        return {
            "shown": shown_texts(visit, known.prompt, (known.response,)),
            "lines": comparison(["label"], {"label": label_value(feedback.given)}, [right], ()),
            "known_severity": known.label.severity.label,
            "letters": {category.code: letter_of(category) for category in CATEGORIES},
        }
    if practice is not None:
        shown = shown_texts(visit, practice.prompt, (practice.response,))
        return {"shown": shown, "form": answer_form(["label"])}
    return {}


ROUTES = [
    Route("/training", show, methods=["GET"]),
    Route("/training/begin", begin, methods=["POST"]),
    Route("/training/answer", answer, methods=["POST"]),
    Route("/training/feedback/{item}", feedback, methods=["GET"]),
]
NAV = [Link("/training", "Training")]
