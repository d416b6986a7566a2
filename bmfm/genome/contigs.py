"""One name for a contig, whatever style a file uses: ``chr1``, ``1``, ``CHR1`` and ``NC_000001.11`` are the same."""

import re
from collections.abc import Iterable

_REFSEQ_FIRST_CHROMOSOME = {
    # accession number of chromosome 1 -> (number of autosomes, assembly family)
    1: (22, "human GRCh37/GRCh38"),
    60925: (22, "human T2T-CHM13"),
    67: (19, "mouse GRCm38/GRCm39"),
}
_MITOCHONDRIAL_ACCESSIONS = {12920, 1807, 5089}


def canonical_name(name: str) -> str:
    """Style-free name of a contig: ``"1"``, ``"X"``, ``"MT"``; names of no known style come back unchanged.

    Understands UCSC (``chr1``, ``chrM``), Ensembl (``1``, ``MT``) and RefSeq chromosome accessions of human
    (GRCh37, GRCh38, T2T-CHM13) and mouse, with or without version.
    """
    if match := re.fullmatch(r"NC_0*(\d+)(\.\d+)?", name):
        accession = int(match[1])
        if accession in _MITOCHONDRIAL_ACCESSIONS:
            return "MT"
        for first, (autosomes, _) in _REFSEQ_FIRST_CHROMOSOME.items():
            if first <= accession <= first + autosomes + 1:
                number = accession - first + 1
                return {autosomes + 1: "X", autosomes + 2: "Y"}.get(number, str(number))
        return name
    bare = re.sub(r"^chr(?=.)", "", name, flags=re.IGNORECASE)
    if bare.upper() in ("M", "MT"):
        return "MT"
    return bare.upper() if bare.upper() in ("X", "Y") else bare


class ContigNames:
    """Finds the contigs of one genome under any style of name.

    A name that the genome has is that contig and no other. Any other name is a style of a contig if just one contig of
    the genome has that style-free name: in hg19, which has ``chrM`` and ``chrMT``, the name ``MT`` means neither.

    Parameters
    ----------
    names
        The genome's own contig names, in order.
    """

    def __init__(self, names: Iterable[str]):
        self.names = list(names)
        self._exact = {name: index for index, name in enumerate(self.names)}
        self._aliases: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            self._aliases.setdefault(canonical_name(name), []).append(index)

    def __contains__(self, name: str) -> bool:
        """Whether the genome itself has this name."""
        return name in self._exact

    def meant(self, name: str) -> list[int]:
        """Numbers of the contigs that a name may mean."""
        index = self._exact.get(name)
        return [index] if index is not None else self._aliases.get(canonical_name(name), [])

    def find(self, name: str) -> int | None:
        """Index of the contig that `name` means; None if there is none, or more than one under another style."""
        meant = self.meant(name)
        return meant[0] if len(meant) == 1 else None

    def require(self, name: str | int, where: str) -> int:
        """Like `find`, but a name that means no contig, or several, is a ValueError that says where it stood and what exists.

        A number (which YAML and the command line make of ``21``) is the name that is written so.
        """
        name = str(name)
        meant = self.meant(name)
        if len(meant) > 1:
            raise ValueError(
                f"{where}: contig {name!r} may be any of {', '.join(self.names[i] for i in meant)} of the genome; "
                "write the one that is meant as the genome does"
            )
        if not meant:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ValueError(f"{where}: contig {name!r} is not in the genome, which has {shown}")
        return meant[0]
