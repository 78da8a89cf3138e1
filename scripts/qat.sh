#!/bin/sh
# Quantization-aware training: what does INT8 cost, before and after training for it? On the demo's data, or on yours:
#
#   sh scripts/qat.sh
#   MODEL=runs/l1/weights/ssd_resnet18_best.keras SPEC=specs/bccd_resnet18_qat.txt OUT=runs/int8 sh scripts/qat.sh
#
# TRAIN_FLAGS=--use_amp, for example, goes to the training of step 3. What is done is not repeated; rm -r demo/qat starts
# the demo's anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
out=${OUT:-demo/qat}
mkdir -p demo "$out"

# 1. A trained float detector: the demo's, or the one that $MODEL names with a spec for QAT in $SPEC.
spec=${SPEC:-specs/demo_qat.txt}
if [ -z "${MODEL:-}" ]; then
    demo_data
    demo_train
    MODEL=demo/train/weights/ssd_resnet10_best.keras
fi

# 2. The same weights on INT8 codes, ranges from a few pictures, no training: what a calibrator would make of it.
step "$out/.minmax" python scripts/quantize_minmax.py -m "$MODEL" -e "$spec" -o "$out/minmax.keras" --images 64

# 3. A few epochs with rounding in the forward pass. Ranges and batch statistics settle on the way.
# shellcheck disable=SC2086
step "$out/.trained" resumable "$out/trained" ssd train -e "$spec" ${TRAIN_FLAGS:-} -r "$out/trained" -m "$MODEL"

# 4. Float, rounded without training, rounded with training.
best=$(ls "$out"/trained/weights/*_best.keras)
python scripts/compare_models.py -r "$out/compared" "float=$MODEL" "minmax=$out/minmax.keras" "qat=$best"
