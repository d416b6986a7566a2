"""What `VariantTable.from_vcf` gives of a text file, in plain Python over the records of pysam: the kernels must agree with it."""

import gzip
from collections import Counter

import numpy as np
import pysam

from bmfm.genome import frequency
from bmfm.genome.alphabet import base_table
from bmfm.genome.regions import read_regions, within
from bmfm.genome.vcf_filter import VariantFilter, VariantReport


def trim(ref: str, alt: str) -> tuple[int, str, str]:
    """Shift, REF and ALT after the bases that both share at the end (but one), at the start, and at the end again, are cut away."""
    shared = 0
    while shared < min(len(ref), len(alt)) - 1 and ref[-1 - shared] == alt[-1 - shared]:
        shared += 1
    ref, alt = ref[: len(ref) - shared], alt[: len(alt) - shared]
    shift = 0
    while shift < min(len(ref), len(alt)) and ref[shift] == alt[shift]:
        shift += 1
    ref, alt = ref[shift:], alt[shift:]
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return shift, ref, alt


def kind_of(ref: str, alt: str) -> str:
    """Kind of a trimmed allele."""
    if len(ref) == len(alt):
        return "snv" if len(ref) == 1 else "mnv"
    return "insertion" if not ref else "deletion" if not alt else "complex"


def _infos(path):
    """INFO of each record as it is written (pysam rounds figures); flags are left out."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            if not line.startswith("#"):
                items = (item.partition("=") for item in line.rstrip("\n").split("\t")[7].split(";"))
                yield {key: value for key, equals, value in items if equals}


def _copies(sample, n_alts, note) -> tuple[int, int]:
    alleles = [-1 if a is None else a for a in sample.allele_indices]
    if not alleles:
        note("genotypes lack GT (read as the reference)")
        return -1, -1
    if len(alleles) > 2:
        note("genotype of more than two copies (the first two are read)")
    one, two = (alleles * 2)[:2] if len(alleles) == 1 else alleles[:2]
    if min(one, two) < 0:
        note("genotype not called (read as the reference)")
    elif one != two and not sample.phased:
        note("heterozygous genotype without phase (order in the file used)")
    return one, two


def read(path, reference, keep: VariantFilter) -> tuple[list[tuple], list, VariantReport]:
    """Edits (start, end, alt, low, high, record, allele) in order, genotypes of every record, and the report without examples."""
    source = pysam.VariantFile(str(path))
    report, rows, genotypes = VariantReport(str(path)), [], []
    table, last, phase = base_table() & 0x7F, (-1, -1), {}
    regions = None if keep.regions is None else read_regions(keep.regions, reference)
    for number, (record, info) in enumerate(zip(source, _infos(path), strict=True)):
        report.records += 1
        alts, ref = record.alts or (), record.ref.upper()
        contig = reference.names.find(record.chrom)
        notes: Counter = Counter()
        genotypes.append([_copies(record.samples[s], len(alts), lambda reason, n=notes: n.update([reason])) for s in keep.samples])
        if not alts:
            report.skip("no ALT allele", "")
            continue
        if contig is None:
            report.skip("contig not in the genome", "", len(alts))
            continue
        if (contig, record.start) < last:
            report.note("record out of order (sorted)", "")
        last = (contig, record.start)
        length = int(reference.ends[contig] - reference.starts[contig])
        if record.start in (-1, length):
            report.skip("before the first or after the last base of the contig", "", len(alts))
            continue
        if record.start + len(ref) > length:
            report.skip("beyond the end of the contig", "", len(alts))
            continue
        at = int(reference.starts[contig]) + record.start
        codes = table[np.frombuffer(ref.encode(), np.uint8)]
        if (codes != reference.codes[at : at + len(ref)] & 0x7F).any():
            report.skip("REF disagrees with the genome", "", len(alts))
            continue
        if keep.pass_only and list(record.filter) not in ([], ["PASS"]):
            report.skip("FILTER is not PASS", "", len(alts))
            continue
        if keep.info_flag and not record.info.get(keep.info_flag):
            report.skip(f"no INFO flag {keep.info_flag}", "", len(alts))
            continue
        report.noted.update(notes)
        for s in keep.samples:
            sample = record.samples[s]
            called = [a for a in sample.allele_indices if a is not None]
            if len(set(called[:2])) == 2 and sample.phased and sample.get("PS") is not None:
                if phase.get((s, contig), sample["PS"]) != sample["PS"]:
                    report.note("phase set (PS) changes within a contig (the phase between sets is unknown)", "")
                phase[s, contig] = sample["PS"]
        figures, noted = frequency.stated(info, len(alts), keep.frequency_source)
        report.noted.update(frequency.NOTES[key] for key in noted)
        if figures is None and keep.frequency_source in ("auto", "genotypes"):
            carried = Counter(a for sample in record.samples.values() for a in sample.allele_indices if a is not None)
            if total := sum(carried.values()):
                figures = [carried[a] / total for a in range(1, len(alts) + 1)]
        if figures is None:
            if keep.missing_frequency is None:
                report.skip("no frequency stated", "", len(alts))
                continue
            report.note("no frequency stated (default used)", "", len(alts))
            figures = [keep.missing_frequency] * len(alts)
        if (total := sum(figures)) > 1:
            if total > 1 + 1e-6:
                report.note("frequencies add up to more than 1 (rescaled)", "")
            figures = [f / total for f in figures]
        high = 0.0
        for allele, (alt, figure) in enumerate(zip(alts, figures, strict=True), start=1):
            low, high = high, high + figure
            alt = alt.upper()
            if not set(alt) <= set("ACGTN"):
                report.skip("symbolic, spanning or non-ACGTN ALT", "")
            elif not np.float32(keep.min_frequency) <= np.float32(figure) <= np.float32(keep.max_frequency):
                report.skip("frequency out of bounds", "")
            elif alt == ref:
                report.skip("ALT equals REF", "")
            else:
                shift, short_ref, short_alt = trim(ref, alt)
                kind = kind_of(short_ref, short_alt)
                start = at + shift
                end = start + len(short_ref)
                if kind not in keep.kinds:
                    report.skip(f"kind {kind} not wanted", "")
                elif regions is not None and not any(
                    within(np.array([a]), np.array([b]), regions)[0]
                    for a, b in ([(start, end)] if end > start else [(start - 1, start), (start, start + 1)])
                ):
                    report.skip("outside the regions", "")
                else:
                    report.kept[kind] += 1
                    rows.append((start, end, short_alt, np.float32(low), np.float32(high), number, allele))
    rows.sort(key=lambda row: (row[0], row[1] > row[0]))
    for i, (start, _, _, _, _, number, _) in enumerate(rows):
        if any(row[1] > start and row[5] != number for row in rows[:i]):
            report.note("edit overlaps an earlier one (one of them is applied at a time)", "")
    return rows, genotypes, report
