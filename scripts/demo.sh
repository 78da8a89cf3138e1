#!/bin/sh
# The whole way on a small dataset, as `make demo` runs it: data, TFRecords, training, evaluation,
# pruning, retraining, an INT8 graph of the smaller network, drawn detections.
# Everything lands in demo/. A step that is done is not repeated; `rm -r demo` starts anew.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
mkdir -p demo

demo_data
demo_train
step demo/.evaluate ssd evaluate -m demo/train/weights/ssd_resnet10_best.keras -r demo/evaluate
# Three fifths of the parameters go, and a short training without a regulariser makes up for them.
step demo/.prune ssd prune -m demo/train/weights/ssd_resnet10_best.keras -o demo/prune/pruned.keras --target_ratio 0.4
step demo/.retrain resumable demo/retrain ssd train -e specs/demo_retrain.txt -r demo/retrain -m demo/prune/pruned.keras
step demo/.retrained ssd evaluate -m demo/retrain/weights/ssd_resnet10_best.keras -r demo/retrain/evaluate
# What is deployed; export compares its mAP with the network's.
step demo/.export ssd export -m demo/retrain/weights/ssd_resnet10_best.keras -o demo/export/int8.onnx -r demo/export \
    --data_type int8 --cal_image_dir demo/data/training/image_2
step demo/.inference ssd inference -m demo/train/weights/ssd_resnet10_best.keras -i demo/data/testing/image_2 -t 0.5 \
    -r demo/inference
python scripts/demo_summary.py demo
