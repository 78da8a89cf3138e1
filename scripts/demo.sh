#!/bin/sh
# The whole way on a small dataset, as `make demo` runs it: data, TFRecords, training, evaluation, drawn detections.
# Everything lands in demo/. A step that is done is not repeated; `rm -r demo` starts anew.
set -eu
cd "$(dirname "$0")/.."
mkdir -p demo

# step NAME COMMAND...: shows the command, runs it, notes how long it took.
step() {
    name=$1
    shift
    if [ -e "demo/.$name" ]; then
        printf '\n%s: done before (rm -r demo to start anew)\n' "$name"
        return
    fi
    printf '\n$ %s\n' "$*"
    start=$(date +%s)
    "$@"
    echo $(($(date +%s) - start)) > "demo/.$name"
}

step data python scripts/make_demo_data.py --output demo/data
step convert ssd dataset_convert -d specs/demo_convert.txt -o demo/tfrecords/digits -r demo/convert
# A demo that was interrupted goes on where its training stopped.
resume=$(ls demo/train/weights/*.keras > /dev/null 2>&1 && echo --resume || true)
# shellcheck disable=SC2086 # nothing or one flag
step train ssd train -e specs/demo_train.txt -r demo/train $resume
step evaluate ssd evaluate -m demo/train/weights/ssd_resnet10_best.keras -r demo/evaluate
step inference ssd inference -m demo/train/weights/ssd_resnet10_best.keras -i demo/data/testing/image_2 -t 0.5 -r demo/inference
python scripts/demo_summary.py demo
