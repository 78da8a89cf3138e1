#!/bin/sh
# What does each deployed form of a detector cost? Float, float16, INT8 by the three calibrators, and what quantization-aware
# training adds: mAP and latency of each. On models that you have:
#
#   MODEL=runs/l1/weights/ssd_resnet18_best.keras IMAGES=../shared/data/bccd/training/images OUT=runs/artifacts \
#       sh scripts/artifacts.sh [NAME=QAT_MODEL...]
#
# as in qat=runs/int8/trained/weights/ssd_resnet18_best.keras. What is done is not repeated.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
: "${MODEL:?a trained .keras}" "${IMAGES:?a folder of pictures to calibrate with}" "${OUT:?a folder for the results}"
mkdir -p "$OUT"

compared="keras=$MODEL"

# graph NAME MODEL FLAG...: an export, to be compared.
graph() {
    name=$1 model=$2
    shift 2
    step "$OUT/.$name" ssd export -m "$model" -o "$OUT/$name.onnx" -r "$OUT/$name" --nms none --skip_proof "$@"
    compared="$compared onnx_$name=$OUT/$name.onnx"
}

# 1. The float network, as it is and halved.
graph fp32 "$MODEL"
graph fp16 "$MODEL" --data_type fp16

# 2. INT8 with ranges from 256 pictures.
for calibrator in max entropy percentile; do
    graph "int8_$calibrator" "$MODEL" --data_type int8 --calibrator "$calibrator" --cal_image_dir "$IMAGES" --batches 32 \
        --batch_size 8
done

# 3. Models that have learned to live with INT8 and bring their ranges.
for pair in "$@"; do
    compared="$compared ${pair%%=*}=${pair#*=}"
    graph "int8_${pair%%=*}" "${pair#*=}" --data_type int8
done

# shellcheck disable=SC2086
python scripts/compare_models.py -r "$OUT/compared" $compared
