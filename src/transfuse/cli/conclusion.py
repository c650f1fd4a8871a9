"""The report of a study, and its conclusion on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfuse.cli.text import say, working

if TYPE_CHECKING:
    from rich.console import Console

    from transfuse.results.store import Store
    from transfuse.study.conclude import Conclusion
    from transfuse.study.plan import Plan


def concluded(console: Console, store: Store, plan: Plan) -> Conclusion:
    """Write the page of a study into its folder, and say what follows from it."""
    from transfuse.report.html import Contents, write_report
    from transfuse.results.shared_work import shared_work
    from transfuse.study.conclude import conclude

    with working(console, "Writing the report ..."):
        found = conclude(store, plan)
        path = write_report(
            Contents(
                study=found.study,
                recommendation=found.recommendation,
                **found.tables._asdict(),
                comparisons=found.comparisons,
                estimates=found.estimates,
                notes=found.notes,
                environment=found.environment,
                samples=found.samples,
                pictures=found.pictures,
                analyses=found.analyses,
                failures=found.failures,
                network_sizes=found.network_sizes,
                data_sizes=found.data_sizes,
                searches=found.searches,
                cuts=found.cuts,
            ),
            store.study_folder(plan.study.name) / "report.html",
        )
    advice = found.recommendation
    say(console, f"\n{advice.headline}", style="bold")
    for part in advice.models or (advice,):
        for text in filter(None, (part.advice, part.sentence)):
            say(console, text)
    for search in found.searches:
        say(console, " ".join(search.how_chosen()))
    for caveat in advice.caveats:
        say(console, f"  · {caveat}", style="dim")
    if saved := shared_work(found.tables.runs, (found.study.get("search") or {}).get("strategy", "")):
        say(console, saved, style="dim")
    say(console, f"\nReport: {path.resolve()}", soft_wrap=True)
    return found
