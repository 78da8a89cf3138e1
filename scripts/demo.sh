#!/bin/sh
# The whole way on a small dataset, as `make demo` runs it: data, TFRecords, training, evaluation,
# pruning, retraining, drawn detections.
# Everything lands in demo/. A step that is done is not repeated; `rm -r demo` starts anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo

demo_data
# shellcheck disable=SC2046 # nothing or one flag
step train ssd train -e specs/demo_train.txt -r demo/train $(resume demo/train)
step evaluate ssd evaluate -m demo/train/weights/ssd_resnet10_best.keras -r demo/evaluate
# Half the parameters go, and a short training without a regulariser makes up for them.
step prune ssd prune -m demo/train/weights/ssd_resnet10_best.keras -o demo/prune/pruned.keras --target_ratio 0.4
if [ -n "$(resume demo/retrain)" ]; then start=--resume; else start="-m demo/prune/pruned.keras"; fi
# shellcheck disable=SC2086
step retrain ssd train -e specs/demo_retrain.txt -r demo/retrain $start
step retrained ssd evaluate -m demo/retrain/weights/ssd_resnet10_best.keras -r demo/retrain/evaluate
step inference ssd inference -m demo/train/weights/ssd_resnet10_best.keras -i demo/data/testing/image_2 -t 0.5 -r demo/inference
python scripts/demo_summary.py demo
