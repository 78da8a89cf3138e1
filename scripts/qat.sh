#!/bin/sh
# Quantization-aware training, on the demo's data: what does INT8 cost, before and after training for it?
#
#   sh scripts/qat.sh
#
# Everything lands in demo/qat. What is done is not repeated; rm -r demo/qat demo/.qat* starts anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo/qat

# 1. A trained float detector: the demo's, or the one that $MODEL names with a spec for QAT in $SPEC.
spec=${SPEC:-specs/demo_qat.txt}
if [ -z "${MODEL:-}" ]; then
    demo_data
    # shellcheck disable=SC2046 # nothing or one flag
    step train ssd train -e specs/demo_train.txt -r demo/train $(resume demo/train)
    MODEL=demo/train/weights/ssd_resnet10_best.keras
fi

# 2. The same weights on INT8 codes, ranges from a few pictures, no training: what a calibrator would make of it.
step qat_minmax python scripts/quantize_minmax.py -m "$MODEL" -e "$spec" -o demo/qat/minmax.keras --images 64

# 3. A few epochs with rounding in the forward pass. Ranges and batch statistics settle on the way.
if [ -n "$(resume demo/qat/trained)" ]; then start=--resume; else start="-m $MODEL"; fi
# shellcheck disable=SC2086
step qat_trained ssd train -e "$spec" -r demo/qat/trained $start

# 4. Float, rounded without training, rounded with training.
best=$(ls demo/qat/trained/weights/*_best.keras)
python scripts/compare_models.py -r demo/qat/compared "float=$MODEL" "minmax=demo/qat/minmax.keras" "qat=$best"
