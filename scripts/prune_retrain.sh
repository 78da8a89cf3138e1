#!/bin/sh
# Prune and retrain: how small can a detector be, and what does it cost? On the demo's data, or on yours:
#
#   sh scripts/prune_retrain.sh [SHARE...]     shares of the parameters to keep; 0.5 0.3 without any
#   MODEL=runs/l1/weights/ssd_resnet18_best.keras SPEC=specs/bccd_resnet18_retrain.txt OUT=runs/smaller \
#       sh scripts/prune_retrain.sh 0.6 0.4 0.3 0.2
#
# TRAIN_FLAGS=--use_amp, for example, goes to the retraining. What is done is not repeated; rm -r demo/smaller starts the
# demo's anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
out=${OUT:-demo/smaller}
mkdir -p demo "$out"

# 1. A trained detector.
spec=${SPEC:-specs/demo_retrain.txt}
if [ -z "${MODEL:-}" ]; then
    demo_data
    demo_train
    MODEL=demo/train/weights/ssd_resnet10_best.keras
fi

compared="trained=$MODEL"
[ $# -gt 0 ] || set -- 0.5 0.3
for keep in "$@"; do
    folder=$out/$keep
    # 2. The least important filters go, until this share of the parameters is left.
    step "$folder/.pruned" ssd prune -m "$MODEL" -o "$folder/pruned.keras" --target_ratio "$keep"
    # 3. The file's filter counts stay as they are; without a regulariser the accuracy comes back.
    # shellcheck disable=SC2086
    step "$folder/.retrained" resumable "$folder" ssd train -e "$spec" ${TRAIN_FLAGS:-} -r "$folder" \
        -m "$folder/pruned.keras"
    best=$(ls "$folder"/weights/*_best.keras)
    compared="$compared pruned_$keep=$folder/pruned.keras retrained_$keep=$best"
done

# 4. Before, pruned, retrained.
# shellcheck disable=SC2086
python scripts/compare_models.py -r "$out/compared" $compared
