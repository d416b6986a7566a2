"""What labels are found to depend on, strand and place, before fine-tuning: on validation parts, test parts are not touched.

python benchmarks/label_dependence.py --data FOLDER [--suite small_dna]

Printed is how much the validation loss of a linear model changes by reading the given strand in place of both, and by bases at places beside
k-mers, with its standard error; and what follows for `data.reverse_complement=auto` and `objectives.label.places=auto`.
"""

import argparse

from bmfm.evaluation.task_files import read_examples, read_suite, read_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--suite", default="small_dna")
    arguments = parser.parse_args()
    for name in read_suite(arguments.suite).tasks:
        for strands in ("auto", "0"):
            task = read_task(name, ["checkpoint=none", f"data_root={arguments.data}", f"data.reverse_complement={strands}"])
            examples = read_examples(task, arguments.data)
            if strands == "auto":
                examples.data.other_strand(examples.kinds)
            else:
                for label, kind in examples.kinds.items():
                    examples.data.places_of(label, kind, "auto")
            said = [f"{key}: {text}" for key, text in examples.data.facts().items() if key.startswith(("strands", "places"))]
            print(f"{name}  {'; '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
