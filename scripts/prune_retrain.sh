#!/bin/sh
# Prune and retrain, on the demo's data: how small can the detector be, and what does it cost?
#
#   sh scripts/prune_retrain.sh [SHARE...]     shares of the parameters to keep; 0.5 0.3 without any
#
# Everything lands in demo/prune. What is done is not repeated; rm -r demo/prune demo/.prune* starts anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo/prune

# 1. A trained detector: the demo's, or the one that $MODEL names with a spec for retraining in $SPEC.
spec=${SPEC:-specs/demo_retrain.txt}
if [ -z "${MODEL:-}" ]; then
    demo_data
    # shellcheck disable=SC2046 # nothing or one flag
    step train ssd train -e specs/demo_train.txt -r demo/train $(resume demo/train)
    MODEL=demo/train/weights/ssd_resnet10_best.keras
fi

compared="trained=$MODEL"
[ $# -gt 0 ] || set -- 0.5 0.3
for keep in "$@"; do
    folder=demo/prune/$keep
    # 2. The least important filters go, until this share of the parameters is left.
    step "prune_$keep" ssd prune -m "$MODEL" -o "$folder/pruned.keras" --target_ratio "$keep"
    # 3. The file's filter counts stay as they are; without a regulariser the accuracy comes back.
    if [ -n "$(resume "$folder")" ]; then start=--resume; else start="-m $folder/pruned.keras"; fi
    # shellcheck disable=SC2086
    step "prune_${keep}_retrained" ssd train -e "$spec" -r "$folder" $start
    best=$(ls "$folder"/weights/*_best.keras)
    compared="$compared pruned_$keep=$folder/pruned.keras retrained_$keep=$best"
done

# 4. Before, pruned, retrained.
# shellcheck disable=SC2086
python scripts/compare_models.py -r demo/prune/compared $compared
