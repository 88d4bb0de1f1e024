"""The report as one HTML file: sections of sentences, pictures and the numbers behind them, and one user's page.

The file loads nothing from elsewhere, no script, font or image, and its content security policy forbids it. Text from
events (titles, ids, categories) is escaped by the template. It does not say when it was made, so the same history, models and
seed give the same bytes. Only this module knows jinja2; importing it raises MissingExtra where jinja2 is not installed.
"""

from importlib.resources import files

from streamer.core.errors import MissingExtra
from streamer.study.report.contenders import Contest
from streamer.study.report.figures import Pictures
from streamer.study.report.sections import number, sections
from streamer.study.report.topten import Lists
from streamer.study.report.user_page import UserPage

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
except ModuleNotFoundError as error:
    if error.name not in ("jinja2", "markupsafe"):
        raise
    raise MissingExtra(
        "a report needs jinja2, which is not installed: pip install 'streamer-recs[offline]', or make setup"
    ) from None


def page(contest: Contest, lists: Lists, user: UserPage, *, name: str) -> str:
    """The whole file as text; `name` is the name of the file or folder that was read."""
    pictures = Pictures(contest.names)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"svg": Markup, "number": number}
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    plan, data = contest.plan, contest.data
    history = pictures.history(range(1, len(user.values) + 1), user.values, user.missed, mean=user.mean)
    return template.render(
        name=name, sections=sections(contest, lists, pictures), user=user, history=history, best=contest.best.name, raters=contest.raters,
        about=(
            f"{len(data.ratings()):,} ratings by {data.user_count:,} users of {data.item_count:,} items; split {plan.split}: "
            f"{len(contest.parts.train):,} for training, {len(contest.parts.validation):,} for validation, "
            f"{len(contest.parts.test):,} for the test; seed {plan.seed}"
        ),
        missing=contest.missing,
    )  # fmt: skip
