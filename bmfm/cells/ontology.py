"""Ontologies of cell types and tissues, read from OBO files."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from bmfm.files import open_whole, require_file


@dataclass
class Ontology:
    """Terms and their ``is_a`` parents.

    Attributes
    ----------
    names
        {id: name} of the terms that are not obsolete.
    parents
        {id: ids of direct parents}.
    """

    names: dict[str, str] = field(default_factory=dict)
    parents: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_obo(cls, path: str | Path) -> "Ontology":
        """Read the ``[Term]`` stanzas of an OBO file (plain or gzip), as the Cell Ontology's ``cl-basic.obo``."""
        file = require_file(path, "ontology (OBO file)")
        with open_whole(file) as stream:
            text = stream.read().decode()
        ontology = cls()
        for stanza in text.split("\n\n"):
            kind, *tags = stanza.strip().split("\n")
            if kind.strip() != "[Term]":
                continue
            pairs = [tag.split(": ", 1) for tag in tags if ": " in tag]
            given = dict(pairs)
            if given.get("is_obsolete", "").startswith("true") or "id" not in given:
                continue
            ontology.names[given["id"].strip()] = given.get("name", given["id"]).strip()
            ontology.parents[given["id"].strip()] = [v.split("!")[0].split("{")[0].strip() for k, v in pairs if k == "is_a"]
        if not ontology.names:
            raise ValueError(f"{file} holds no [Term] stanza; an ontology in OBO format is needed")
        return ontology

    def ancestors(self, term: str) -> set[str]:
        """All terms above `term`, itself not included."""
        found: set[str] = set()
        waiting = list(self.parents.get(term, []))
        while waiting:
            above = waiting.pop()
            if above not in found:
                found.add(above)
                waiting += self.parents.get(above, [])
        return found

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """{name in lower case: term}."""
        return {name.lower(): term for term, name in self.names.items()}

    def resolve(self, label: str) -> str:
        """The id of a term given by id or by name.

        Raises
        ------
        KeyError
            With near matches, if there is no such term.
        """
        if label in self.names:
            return label
        if (term := self._by_name.get(label.lower())) is not None:
            return term
        near = get_close_matches(label.lower(), self._by_name, n=2, cutoff=0.6)
        raise KeyError(f"{label!r} is no term of the ontology" + (f"; did you mean {' or '.join(map(repr, near))}?" if near else ""))

    def leaf_sets(self, terms: list[str]) -> tuple[list[str], dict[str, list[int]]]:
        """Leaves among the given terms, and for each term the numbers of the leaves at or below it.

        A leaf is a given term with no other given term below it, so every term has at least one.
        """
        above = {term: self.ancestors(term) for term in dict.fromkeys(terms)}
        leaves = [term for term in above if not any(term in others for others in above.values())]
        return leaves, {term: [i for i, leaf in enumerate(leaves) if leaf == term or term in above[leaf]] for term in above}
