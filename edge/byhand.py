"""What a user changed in the gallery while a site runs, told to those who decide and to the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidge.edge.requests import Enrol, Erase, Merge, Retain, Split, Unmerge
from reidge.edge.ruling import Change

if TYPE_CHECKING:
    from reidge.edge.reporter import Reporter
    from reidge.edge.requests import Answer, Request
    from reidge.edge.sightings import SightingBook


def take_over(book: SightingBook, reporter: Reporter, request: Request, answer: Answer) -> list[Change]:
    """Let decisions go on from a change that was made by hand, or by the retention, and tell of it.

    Args:
        book: Decides; the gallery it decides with is changed already.
        reporter: Tells.
        request: What was asked.
        answer: What came of it.

    Returns:
        Tracks that are over and have another answer by it; they are to be told yet.
    """
    match request:
        case Enrol():
            if answer["created"]:
                reporter.identity("identity.created", answer["global_id"])
        case Merge(kept=kept, absorbed=absorbed):
            book.adopt(kept=kept, absorbed=absorbed)
            book.window.taken_apart.discard(frozenset((kept, absorbed)))
            reporter.identity("identity.merged", kept, merged_from=absorbed)
        case Split() | Unmerge():
            made, before = answer["global_id"], answer["split_from"]
            reporter.identity("identity.split", made, split_from=before)
            moved = book.part(made, before, sighting_ids=answer["sightings"])
            return [Change(kind="decided", global_id=made, sighting=s, before=before) for s in moved]
        case Erase() | Retain():
            for global_id in answer["erased"]:
                book.forget(global_id)
                reporter.identity("identity.erased", global_id, reason=request.action)
            book.forget_sightings(answer["sightings"])
    return []
