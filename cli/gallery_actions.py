"""What each action of `reidge gallery` does and says."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reidge.cli.output import lines_of, table
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reidge.edge.access import GallerySite, Sight
    from reidge.edge.catalogue import Pass
    from reidge.edge.gallery import Candidate, Gallery
    from reidge.edge.portraits import Portrait
    from reidge.edge.requests import Answer, Request


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to an action, for machines and for people."""

    figures: dict[str, Any]
    text: str


def do_list(args: argparse.Namespace) -> Said:
    """Tell who is in the gallery."""
    from reidge.edge.access import reading
    from reidge.edge.catalogue import list_people, list_undecided

    with reading(_site(args)) as store:
        if args.undecided:
            passes = list_undecided(store, limit=args.limit)
            return Said({"sightings": [asdict(one) for one in passes]}, _passes(passes))
        people = list_people(store, named=args.named, limit=args.limit)
    rows = [
        (p.global_id, p.name, _when(p.created_at), _when(p.last_seen), p.sightings, p.exemplars, p.enrolled)
        for p in people
    ]
    text = table(("ID", "NAME", "FIRST SEEN", "LAST SEEN", "SIGHTINGS", "EXEMPLARS", "ENROLLED"), rows)
    return Said({"identities": [asdict(person) for person in people]}, text if rows else "nobody")


def do_show(args: argparse.Namespace) -> Said:
    """Tell everything about one identity."""
    from reidge.edge.access import reading
    from reidge.edge.catalogue import show_person

    with reading(_site(args)) as store:
        record = show_person(store, args.id, limit=args.limit)
    person = asdict(record.person)
    about = person | {
        "name": person["name"] or "-",
        "created_at": _when(record.person.created_at),
        "last_seen": _when(record.person.last_seen),
    }
    steps = [
        (_when(step.at), step.action, step.global_id, step.other_id, "taken back" if step.undone else "")
        for step in record.history
    ]
    history = f"\n\n{table(('WHEN', 'ACTION', 'ID', 'OTHER', ''), steps)}" if steps else ""
    text = f"{lines_of(about)}\n\n{_passes(record.sightings)}{history}"
    return Said(asdict(record), text)


def do_stats(args: argparse.Namespace) -> Said:
    """Tell how much the gallery holds."""
    from reidge.edge.access import is_running, reading
    from reidge.edge.catalogue import count

    site = _site(args)
    with reading(site) as store:
        figures = count(store)
    figures |= {
        "bytes": sum(path.stat().st_size for path in site.files if path.exists()),
        "running": is_running(site),
        "retention_days": site.storage.retention_days,
        "retention_enrolled_days": site.storage.retention_enrolled_days,
    }
    shown = figures | {name: _when(figures[name]) for name in ("first_created", "last_seen")}
    shown |= {name: figures[name] or "for ever" for name in ("retention_days", "retention_enrolled_days")}
    return Said(figures, lines_of(shown))


def do_search(args: argparse.Namespace) -> Said:
    """Tell who pictures may show."""
    from reidge.edge.access import note

    site = _site(args)
    with _looking(site, args) as (sight, portraits):
        with _gallery(site, sight) as gallery:
            found = _nearest(gallery, portraits, args.limit)
            verdicts = {c.global_id: sight.verdict(c, gallery) for c in found}
            likely = [global_id for global_id, verdict in verdicts.items() if verdict != "no"]
            least = sight.bars.at(len(gallery))
            note(gallery.store, "search", subject=likely, pictures=len(portraits))
        figures = {
            "pictures": _described(portraits),
            "min_similarity": least,
            "found": [asdict(c) | {"same": verdicts[c.global_id]} for c in found],
        }
        rows = [(c.global_id, c.name, f"{c.similarity:.3f}", verdicts[c.global_id]) for c in found]
    people = table(("ID", "NAME", "SIMILARITY", "SAME PERSON"), rows) if rows else "nobody is in the gallery"
    return Said(figures, f"{_quality(portraits)}{people}")


def do_enrol(args: argparse.Namespace) -> Said:
    """Remember a person from pictures."""
    from reidge.edge.access import is_there
    from reidge.edge.requests import Enrol, Shot, check_name

    site = _site(args)
    name = None if args.name is None else check_name(args.name)
    unlike = None
    with _looking(site, args) as (sight, portraits):
        unfit = [f"{portrait.path}: {portrait.unfit}" for portrait in portraits if portrait.unfit is not None]
        if unfit and not args.force:
            raise InputError(f"{'; '.join(unfit)}. Nobody is known again by that: leave it out, or say --force.")
        alike: list[Candidate] = []
        if is_there(site):  # which also sees to it that the encoders are the same
            with _gallery(site, sight) as gallery:
                near = _nearest(gallery, portraits, 5)
                alike = [candidate for candidate in near if sight.verdict(candidate, gallery) == "yes"]
                unlike = _unlike(gallery, sight, portraits, args.identity)
        if unlike is not None and alike and not args.force:
            raise InputError(
                f"the pictures are unlike identity {unlike.global_id} ({unlike.similarity:.2f}) and like identity "
                f"{alike[0].global_id} ({alike[0].similarity:.2f}). Enrol them as that one, or say --force."
            )
    shots = tuple(
        Shot.of(one.embedding_D, quality=one.quality, crop=one.jpeg() if site.storage.crops else None)
        for one in portraits
    )
    request = Enrol(by=_me(), shots=shots, name=name, global_id=args.identity, captured_at=time.time())
    answer = _ask(site, request)
    number = answer["global_id"]
    others = [c for c in alike if c.global_id != number]
    text = f"{_quality(portraits)}{'enrolled as' if answer['created'] else 'added to'} identity {number}"
    if unlike is not None:
        text += f"\nthey are unlike what was known of it ({unlike.similarity:.2f}): is it the same person?"
    for other in others:
        text += (
            f"\nlooks like identity {other.global_id} ({other.similarity:.2f}): if that is the same person,"
            f" reidge gallery merge {args.site} {number} {other.global_id}"
        )
    return Said(answer | {"quality": _described(portraits), "alike": [asdict(other) for other in others]}, text)


def do_rename(args: argparse.Namespace) -> Said:
    """Give an identity a name."""
    from reidge.edge.requests import Rename, check_name

    name = None if args.name is None else check_name(args.name)
    answer = _ask(_site(args), Rename(by=_me(), global_id=args.id, name=name)) | {"name": name}
    return Said(answer, f"identity {args.id} has {'no name' if args.name is None else f'the name {args.name}'} now")


def do_merge(args: argparse.Namespace) -> Said:
    """Make two identities one."""
    from reidge.edge.requests import Merge

    answer = _ask(_site(args), Merge(by=_me(), kept=args.kept, absorbed=args.absorbed))
    return Said(answer, f"identity {args.absorbed} is part of {args.kept} now")


def do_unmerge(args: argparse.Namespace) -> Said:
    """Take a merge back."""
    from reidge.edge.requests import Unmerge

    answer = _ask(_site(args), Unmerge(by=_me(), absorbed=args.absorbed))
    return Said(answer, f"identity {args.absorbed} is no part of {answer['split_from']} any more")


def do_split(args: argparse.Namespace) -> Said:
    """Make some sightings of an identity a new one."""
    from reidge.edge.requests import Split

    answer = _ask(_site(args), Split(by=_me(), global_id=args.id, sighting_ids=tuple(args.sightings)))
    moved = _counted(len(answer["sightings"]), "sighting")
    return Said(answer, f"identity {answer['global_id']} is made of {moved} of identity {args.id} now")


def do_erase(args: argparse.Namespace) -> Said:
    """Forget somebody for good."""
    from reidge.edge.requests import Erase

    if not args.ids and not args.sightings:
        raise InputError("nobody to erase was named. Give numbers of identities, or --sightings.")
    request = Erase(by=_me(), global_ids=tuple(args.ids), sighting_ids=tuple(args.sightings))
    answer = _ask(_site(args), request)
    people, sightings = len(answer["erased"]), len(answer["sightings"])
    text = f"erased: {_counted(people, 'identity', 'identities')}, {_counted(sightings, 'single sighting')}"
    return Said(answer, f"{text}. Files of events and backups are yours to look after.")


def do_retain(args: argparse.Namespace) -> Said:
    """Forget who was not seen for long."""
    from reidge.edge.access import reading
    from reidge.edge.requests import retain_now
    from reidge.edge.retention import count_expired

    site = _site(args)
    with reading(site) as store:
        going, passes = count_expired(store, site.storage, now=time.time())
        (total,) = store.read("SELECT count(*) FROM identities")[0]
    if site.storage.retention_days is None and site.storage.retention_enrolled_days is None:
        return Said({"identities": 0, "sightings": 0}, "retention is off: storage.retention_days is null")
    if args.dry_run:
        text = f"would be forgotten: {going} of {_counted(total, 'identity', 'identities')}"
        figures = {"identities": going, "sightings": passes, "dry_run": True}
        return Said(figures, f"{text}, {_counted(passes, 'sighting')}")
    if 2 * going > total and not args.yes:
        raise InputError(
            f"{going} of {_counted(total, 'identity', 'identities')} would be forgotten, which is more than half. "
            "If that is meant, say --yes."
        )
    identities = sightings = 0
    more = True
    while more:
        answer = _ask(site, retain_now(site.storage, by=_me()))
        identities, sightings = identities + len(answer["erased"]), sightings + len(answer["sightings"])
        more = answer["more"]
    text = f"forgotten: {_counted(identities, 'identity', 'identities')}, {_counted(sightings, 'sighting')}"
    return Said({"identities": identities, "sightings": sightings}, text)


def do_duplicates(args: argparse.Namespace) -> Said:
    """Tell who may be in the gallery twice."""
    from reidge.edge.access import min_similarity_of, reading
    from reidge.edge.duplicates import find_duplicates
    from reidge.edge.progress import Progress

    site = _site(args)
    least = min_similarity_of(site) if args.min_similarity is None else args.min_similarity
    if not -1 <= least <= 1:  # nor is NaN
        raise InputError(f"--min-similarity must be between -1 and 1, got {least:g}.")
    with reading(site) as store:
        (total,) = store.read("SELECT count(DISTINCT global_id) FROM exemplars")[0]
        with Progress("duplicates", total=total, unit="identities") as bar:
            pairs = find_duplicates(store, min_similarity=least, limit=args.limit, advance=bar.advance)
    rows = [(*pair.global_ids, f"{pair.similarity:.3f}") for pair in pairs]
    text = table(("ID", "OTHER", "SIMILARITY"), rows) if rows else "no two are alike enough"
    return Said({"min_similarity": least, "duplicates": [asdict(pair) for pair in pairs]}, text)


def do_export(args: argparse.Namespace) -> Said:
    """Write the whole gallery to an archive."""
    from reidge.edge.access import note, reading
    from reidge.edge.archive import write_archive
    from reidge.edge.transfer import pack

    site = _site(args)
    if args.output.exists():
        raise InputError(f"{args.output} already exists. Choose another output or remove it.")
    with reading(site) as store:
        archive = pack(store)
        counts = {"identities": len(archive.identities), "sightings": len(archive.sightings)}
        note(store, "export", identities=len(archive.identities))
        write_archive(args.output, archive, secret=None if args.plain else site.storage.key)
    encrypted = site.storage.key is not None and not args.plain
    figures = {"archive": str(args.output), **counts, "pictures": len(archive.images), "encrypted": encrypted}
    return Said(figures, lines_of(figures))


def do_import(args: argparse.Namespace) -> Said:
    """Take in what of an archive is missing."""
    from reidge.edge.access import encoder_of, making
    from reidge.edge.archive import read_archive
    from reidge.edge.transfer import check_encoder, take_in

    site = _site(args)
    archive = read_archive(args.archive, secret=_secret(args.secret_file) or site.storage.key)
    check_encoder(archive, encoder_of(site))  # before a file is made for it
    with making(site) as store:
        figures = asdict(take_in(store, archive, by=_me()))
    numbers = figures.pop("renumbered")
    text = lines_of(figures)
    if numbers:
        text += f"\n\n{table(('IN THE ARCHIVE', 'HERE'), list(numbers.items()))}"
    return Said(figures | {"renumbered": numbers}, text)


def do_encrypt(args: argparse.Namespace) -> Said:
    """Encrypt the gallery with the secret of the site file."""
    from reidge.edge.access import owning
    from reidge.edge.audit import note
    from reidge.edge.store import read_label

    site = _site(args)
    if site.storage.key is None:
        raise InputError(f"{args.site} says no storage.secret. Set storage.secret_file to a file that holds one.")
    old = _secret(args.old_secret_file)
    if old is None and read_label(site.path).encrypted:
        raise InputError(f"{site.path} is encrypted already. Give its secret of now as --old-secret-file to change it.")
    with owning(site, secret=old) as store:
        count = store.reseal(site.storage.key)
        store.write([note("encrypt", actor=_me())])
    return Said({"encrypted": count}, f"{count} embeddings and pictures are encrypted now")


def do_decrypt(args: argparse.Namespace) -> Said:
    """Take the encryption off."""
    from reidge.edge.access import owning
    from reidge.edge.audit import note

    site = _site(args)
    with owning(site, secret=site.storage.key) as store:
        count = store.reseal(None)
        store.write([note("decrypt", actor=_me())])
    return Said({"decrypted": count}, f"{count} embeddings and pictures are plain now; take storage.secret out")


def do_reembed(args: argparse.Namespace) -> Said:
    """Make the gallery one of the bundle's encoder."""
    from reidge.edge.access import owning, seeing
    from reidge.edge.progress import Progress
    from reidge.edge.reembed import reembed

    site = _site(args)
    with owning(site, secret=site.storage.key) as store, seeing(site, whole=False) as sight:
        (total,) = store.read("SELECT count(*) FROM crops")[0]
        with Progress("reembed", total=total, unit="pictures") as bar:
            figures = asdict(reembed(store, sight.encoder, by=_me(), drop=args.drop, advance=bar.advance))
    return Said(figures, lines_of(figures))


def do_audit(args: argparse.Namespace) -> Said:
    """Tell who did what."""
    from reidge.edge.access import reading
    from reidge.edge.audit import NEWEST, entries

    with reading(_site(args)) as store:
        found = entries(store.read(NEWEST, (args.limit,)))
    rows = [
        (_when(e.at), e.actor, e.action, e.subject, ", ".join(f"{name} {value}" for name, value in e.detail.items()))
        for e in found
    ]
    text = table(("WHEN", "WHO", "ACTION", "IDENTITIES", ""), rows) if rows else "nothing was done yet"
    return Said({"entries": [asdict(entry) for entry in found]}, text)


def _site(args: argparse.Namespace) -> GallerySite:
    from reidge.edge.access import load_gallery_site

    return load_gallery_site(args.site, args.set)


def _me() -> str:
    from reidge.edge.audit import current_user

    return current_user()


def _ask(site: GallerySite, request: Request) -> Answer:
    from reidge.edge.access import change

    return change(site, request)


@contextmanager
def _looking(site: GallerySite, args: argparse.Namespace) -> Iterator[tuple[Sight, list[Portrait]]]:
    """Open what it takes, and embed the pictures that were given."""
    from reidge.edge.access import seeing

    with seeing(site, whole=args.whole) as sight:
        yield sight, sight.look(args.pictures)


@contextmanager
def _gallery(site: GallerySite, sight: Sight) -> Iterator[Gallery]:
    """Open the gallery to look for somebody."""
    from reidge.edge.access import searching

    with searching(site, sight.encoder.bundle, sight.bars) as gallery:
        yield gallery


def _nearest(gallery: Gallery, portraits: Sequence[Portrait], limit: int) -> list[Candidate]:
    from reidge.edge.portraits import mean_embedding

    return gallery.nearest(mean_embedding(portraits), limit=limit)


def _unlike(gallery: Gallery, sight: Sight, portraits: Sequence[Portrait], global_id: int | None) -> Candidate | None:
    """The identity that pictures are to be of, where a running site would not take them for it."""
    everybody = _nearest(gallery, portraits, len(gallery)) if global_id is not None else []
    for own in everybody:
        if own.global_id == global_id and sight.verdict(own, gallery) != "yes":
            return own
    return None


def _described(portraits: Sequence[Portrait]) -> list[dict[str, Any]]:
    """What there is to say about each picture, but for the picture."""
    return [
        {"path": str(p.path), "quality": p.quality, "likeness": p.likeness, "flaws": list(p.flaws)} for p in portraits
    ]


def _quality(portraits: Sequence[Portrait]) -> str:
    """A table of the pictures where there is something to say about one."""
    if not any(portrait.flaws for portrait in portraits):
        return ""
    rows = [(p.path, f"{p.quality:.2f}", "; ".join(p.flaws) or "good") for p in portraits]
    return f"{table(('PICTURE', 'QUALITY', ''), rows)}\n\n"


def _passes(passes: Sequence[Pass]) -> str:
    rows = [
        (p.sighting_id, p.camid, _when(p.started_at), _when(p.ended_at), p.pictures, _short(p.similarity), _kept(p))
        for p in passes
    ]
    headings = ("SIGHTING", "CAMERA", "FROM", "TO", "PICTURES", "SIMILARITY", "KEPT")
    return table(headings, rows) if rows else "no sightings"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _kept(one: Pass) -> str:
    return ", ".join(word for word, kept in (("exemplar", one.exemplar), ("picture", one.picture)) if kept)


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _when(seconds: float | None) -> str | None:
    """To the second, UTC."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _secret(path: Path | None) -> str | None:
    from reidge.edge.secrets import read_secret

    return None if path is None else read_secret(path, where="the secret")
