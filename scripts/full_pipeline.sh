#!/bin/sh
# From pictures to an engine on the demo's data: convert, train, prune, retrain, train for INT8, export in float32, float16
# and INT8, build an engine, evaluate every artifact, detect.
#
#   sh scripts/full_pipeline.sh
#
# Everything lands in demo/pipeline. What is done is not repeated; rm -r demo/pipeline starts anew.
# EPOCHS shortens the first training (16), KEEP says what pruning leaves (0.4 of the parameters).
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
out=demo/pipeline
mkdir -p "$out"
best=weights/ssd_resnet10_best.keras

# 1. Data as TFRecords, and a float detector.
demo_data
sed "s/num_epochs: 16/num_epochs: ${EPOCHS:-16}/" specs/demo_train.txt > "$out/train.txt"
step "$out/.train" resumable "$out/train" ssd train -e "$out/train.txt" -r "$out/train"

# 2. Smaller: filters go, retraining makes up for them.
step "$out/.prune" ssd prune -m "$out/train/$best" -o "$out/pruned/pruned.keras" --target_ratio "${KEEP:-0.4}"
step "$out/.retrain" resumable "$out/retrain" ssd train -e specs/demo_retrain.txt -r "$out/retrain" \
    -m "$out/pruned/pruned.keras"

# 3. Ready for INT8: the pruned network learns to live with rounding.
step "$out/.qat" resumable "$out/qat" ssd train -e specs/demo_qat.txt -r "$out/qat" -m "$out/retrain/$best"

# 4. What is deployed: float32, float16, INT8 by calibration and INT8 by training, and an engine where one can be built.
graphs=$out/graphs
pictures=demo/data/training/image_2
step "$out/.fp32" ssd export -m "$out/retrain/$best" -o "$graphs/fp32.onnx" --nms none -r "$graphs/fp32"
step "$out/.fp16" ssd export -m "$out/retrain/$best" -o "$graphs/fp16.onnx" --nms none -r "$graphs/fp16" --data_type fp16
step "$out/.int8" ssd export -m "$out/retrain/$best" -o "$graphs/int8.onnx" --nms none -r "$graphs/int8" --data_type int8 \
    --cal_image_dir "$pictures" --batches 8 --cal_cache_file "$graphs/cal.bin"
engine=
if python -c 'import tensorrt_rtx_bindings' 2> /dev/null; then
    engine="--engine_file $graphs/int8_qat.engine --compute_capability 8.6"
fi
# shellcheck disable=SC2086
step "$out/.int8_qat" ssd export -m "$out/qat/$best" -o "$graphs/int8_qat.onnx" --nms none -r "$graphs/int8_qat" \
    --data_type int8 $engine

# 5. Every artifact on the same pictures, then detections with the smallest.
step "$out/.inference" ssd inference -m "$graphs/int8_qat.onnx" -i demo/data/testing/image_2 -t 0.5 -r "$out/inference"
python scripts/compare_models.py -r "$out/compared" "float=$out/train/$best" "pruned=$out/pruned/pruned.keras" \
    "retrained=$out/retrain/$best" "qat=$out/qat/$best" "onnx_fp32=$graphs/fp32.onnx" "onnx_fp16=$graphs/fp16.onnx" \
    "onnx_int8=$graphs/int8.onnx" "onnx_int8_qat=$graphs/int8_qat.onnx"
if [ -n "$engine" ]; then
    echo "engine: $graphs/int8_qat.engine ($(wc -c < "$graphs/int8_qat.engine") bytes, for compute capability 8.6)"
fi
