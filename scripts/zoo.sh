#!/bin/sh
# Every backbone family on the demo's data, as `make zoo` runs it: trains and evaluates each spec of specs/zoo, then a table.
# Everything lands in demo/zoo. What is done is not repeated; an interrupted training goes on where it stopped.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo/zoo

# family NAME: its training and its evaluation.
family() {
    folder=demo/zoo/$1
    step "$folder/.trained" resumable "$folder" ssd train -e "specs/zoo/$1.txt" -r "$folder" --use_amp &&
        step "$folder/.evaluated" ssd evaluate -m "$folder/weights/ssd_${1}_best.keras" -r "$folder/evaluate"
}

demo_data
for spec in specs/zoo/*.txt; do
    # One that fails is missing in the table; the others have their turn.
    family "$(basename "$spec" .txt)" || true
done
python scripts/zoo_summary.py demo/zoo
