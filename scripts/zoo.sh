#!/bin/sh
# Every backbone family on the demo's data, as `make zoo` runs it: trains and evaluates each spec of specs/zoo, then a table.
# Everything lands in demo/zoo. What is done is not repeated; an interrupted training goes on where it stopped.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo/zoo

demo_data
for spec in specs/zoo/*.txt; do
    name=$(basename "$spec" .txt)
    folder=demo/zoo/$name
    # shellcheck disable=SC2046 # nothing or one flag
    step "zoo_$name" ssd train -e "$spec" -r "$folder" --use_amp $(resume "$folder")
    step "zoo_${name}_evaluated" ssd evaluate -m "$folder/weights/ssd_${name}_best.keras" -r "$folder/evaluate"
done
python scripts/zoo_summary.py demo/zoo
